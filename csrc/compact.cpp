// Inserts and deletes: what positions emit, end to end. Contracts: fastedit/ops/compact/__init__.py.
#include <algorithm>
#include <cstring>
#include <limits>
#include <vector>

#include "fastedit.h"

namespace {

// What a place of the result holds: the values of position i (i), what position i inserts (~i), or
// nothing.
using Sources = std::vector<int64_t>;
constexpr int64_t kNothing = std::numeric_limits<int64_t>::min();

template <class T>
void move_as(const fe_plane& plane, int64_t from, const Sources& sources, int64_t to) {
    const T* values = static_cast<const T*>(plane.from) + from;
    T* out = static_cast<T*>(plane.to) + to;
    T blank;
    std::memcpy(&blank, plane.blank, sizeof blank);
    for (int64_t source : sources) *out++ = source < 0 ? blank : values[source];
}

void move(const fe_plane& plane, int64_t from, const Sources& sources, int64_t to) {
    switch (plane.size) {
        case 1: return move_as<uint8_t>(plane, from, sources, to);
        case 4: return move_as<uint32_t>(plane, from, sources, to);
        default: return move_as<uint64_t>(plane, from, sources, to);
    }
}

bool servable(const fe_plane* planes, int64_t count) {
    return std::all_of(planes, planes + count, [](const fe_plane& plane) {
        return plane.size == 1 || plane.size == 4 || plane.size == 8;
    });
}

// Places are filled up to `end`; what is emitted beyond is dropped.
struct Writer {
    Sources& sources;
    int64_t end = int64_t(sources.size());
    int64_t used = 0;

    void emit(int64_t source) {
        if (used < end) sources[size_t(used++)] = source;
    }
};

}  // namespace

int32_t fe_rewrite_blocks(const fe_rewrite_args* args, const fe_plane* planes) {
    if (!servable(planes, args->planes)) return -1;
    const auto stays = [&](int64_t i) { return args->fixed && args->fixed[i]; };
    Sources sources(size_t(args->length));
    for (int64_t begin = 0; begin < args->blocks * args->length; begin += args->length) {
        std::fill(sources.begin(), sources.end(), kNothing);
        Writer writer{sources};
        for (int64_t i = 0; i < args->length; ++i) {
            // A run ends before the next position that stays where it is.
            writer.end = i;
            while (writer.end < args->length && !stays(begin + writer.end)) ++writer.end;
            for (; i < writer.end; ++i) {
                if (args->insert[begin + i]) writer.emit(~i);
                if (args->keep[begin + i]) writer.emit(i);
            }
            if (i < args->length) sources[size_t(i)] = i;
            writer.used = i + 1;
        }
        for (int64_t p = 0; p < args->planes; ++p) move(planes[p], begin, sources, begin);
    }
    return 0;
}

int32_t fe_compact(const fe_compact_args* args, const fe_plane* planes) {
    if (!servable(planes, args->planes) || args->planes < 1) return -1;
    const auto bound = [&](int64_t sequence) {
        const int64_t at = args->cu_size == 4 ? static_cast<const int32_t*>(args->cu)[sequence]
                                              : static_cast<const int64_t*>(args->cu)[sequence];
        return std::clamp<int64_t>(at, 0, args->positions);
    };
    const auto end_with = [&](int64_t sequence, int64_t used) {
        if (args->cu_size == 4)
            static_cast<int32_t*>(args->cu_out)[sequence] = int32_t(used);
        else
            static_cast<int64_t*>(args->cu_out)[sequence] = used;
    };
    Sources sources(size_t(args->capacity), kNothing);
    Writer writer{sources};
    end_with(0, 0);
    for (int64_t sequence = 0; sequence < args->sequences; ++sequence) {
        int64_t room = args->room ? args->room[sequence] : args->positions;
        for (int64_t i = bound(sequence); i < bound(sequence + 1); ++i) {
            if (args->insert[i] >= 0 && room-- > 0) writer.emit(~i);
            if (args->keep[i]) writer.emit(i);
        }
        end_with(sequence + 1, writer.used);
    }
    for (int64_t p = 0; p < args->planes; ++p) move(planes[p], 0, sources, 0);
    int64_t* ids = static_cast<int64_t*>(planes[0].to);
    for (int64_t place = 0; place < writer.used; ++place)
        if (sources[size_t(place)] < 0) ids[place] = args->insert[~sources[size_t(place)]];
    return 0;
}
