// Inverse CDF over the ids in order. The filters find their cut-off in bins of z = (x - max) /
// temperature: the row is read again, but of it only the ids of one bin are sorted or copied.
#include "sampling.h"

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

namespace fastedit {
namespace {

struct Row {
    const void* data;
    const fe_logits& logits;
    float max, temperature;

    // Of one tile: z, exp(z) of its ids; -inf and 0 of what may not be chosen, and behind the last one
    // up to a whole chunk.
    struct Tile {
        int64_t begin = -1, count = 0;
        float z[kTile], weight[kTile];

        int64_t chunks() const { return (count + kChunk - 1) / kChunk; }
    };

    void read(int64_t begin, Tile& tile) const {
        if (tile.begin == begin) return;
        tile.begin = begin;
        tile.count = std::min(kTile, logits.vocab - begin);
        row_reader().weigh(data, logits, begin, tile.count, max, temperature, tile.z, tile.weight);
    }

    template <class Visit>
    void tiles(Tile& tile, Visit visit) const {
        for (int64_t begin = 0; begin < logits.vocab; begin += kTile) {
            read(begin, tile);
            visit();
        }
    }
};

// What survives the filters: any z above `z`, and the first `ties` ids whose z it is.
struct Cut {
    float z = -kInf;
    int64_t ties = std::numeric_limits<int64_t>::max();

    // Weights of `tile`, 0 for what is cut off, perhaps in `buffer`; `seen` counts the ties.
    const float* weights(const Row::Tile& tile, int64_t& seen, float* buffer) const {
        if (z == -kInf) return tile.weight;
        int tied = 0;
        for (int64_t i = 0; i < tile.chunks() * kChunk; ++i) {
            buffer[i] = tile.z[i] >= z ? tile.weight[i] : 0.0f;
            tied += tile.z[i] == z;
        }
        const int64_t before = std::exchange(seen, seen + tied);
        if (seen <= ties) return buffer;
        for (int64_t i = 0, left = ties - before; i < tile.count; ++i)
            if (tile.z[i] == z && left-- <= 0) buffer[i] = 0.0f;
        return buffer;
    }
};

// From the best id down, 1/16 of a logit each; the last one has all that is lower.
constexpr int kBins = 512;

// In which bin the ids of a tile are, with a fraction.
void bins_of(const Row& row, const Row::Tile& tile, float* out) {
    const float scale = -16.0f * row.temperature, last = float(kBins - 1);
    for (int64_t i = 0; i < tile.count; ++i) {
        const float at = tile.z[i] * scale;
        out[i] = at < last ? at : last;
    }
}

struct Candidate {
    float z;
    double amount;
};

// Of the ids that `before` leaves, highest first, those whose predecessors measure, by
// `amount(weight)`, at most `budget(total)`: their lowest z, and how many of them have it.
template <class Amount, class Budget>
Cut cut_at(const Row& row, Row::Tile& tile, const Cut& before, Amount amount, Budget budget) {
    double measure[kBins] = {}, parts[8] = {};
    int64_t seen = 0;
    row.tiles(tile, [&] {
        float bins[kTile], buffer[kTile];
        bins_of(row, tile, bins);
        const float* weight = before.weights(tile, seen, buffer);
        for (int64_t i = 0; i < tile.count; ++i) measure[int(bins[i])] += amount(weight[i]);
    });
    for (int bin = 0; bin < kBins; bin += 8)
        for (int k = 0; k < 8; ++k) parts[k] += measure[bin + k];
    const double most = budget(std::accumulate(parts, parts + 8, 0.0));
    int found = 0;  // the lowest bin whose highest id still fits
    double above = 0.0, reached = 0.0;
    for (int bin = 0; bin < kBins && reached <= most; reached += measure[bin++])
        if (measure[bin] > 0.0) found = bin, above = reached;

    std::vector<Candidate> ids;
    ids.reserve(kChunk);
    const float first = float(found), last = std::nextafter(first + 1.0f, first);
    row.tiles(tile, [&] {
        float bins[kTile];
        int32_t places[kTile];
        bins_of(row, tile, bins);
        const int64_t inside = row_reader().between(bins, tile.count, first, last, places);
        for (int64_t i = 0; i < inside; ++i)
            if (tile.z[places[i]] >= before.z)
                ids.push_back({tile.z[places[i]], amount(tile.weight[places[i]])});
    });
    const auto higher = [](const Candidate& a, const Candidate& b) { return a.z > b.z; };
    auto begin = ids.begin(), end = ids.end();  // what is before `begin` fits, from `end` on does not
    while (end - begin > 32) {
        const auto middle = begin + (end - begin) / 2;
        std::nth_element(begin, middle, end, higher);
        reached = above;
        for (auto id = begin; id != middle; ++id) reached += id->amount;
        if (reached <= most)
            begin = middle, above = reached;
        else
            end = middle;
    }
    std::sort(begin, end, higher);
    while (begin != end && above <= most) above += (begin++)->amount;
    const float z = (begin - 1)->z;
    const auto tied = [&](const Candidate& id) { return id.z == z; };
    return {z, int64_t(std::count_if(ids.begin(), begin, tied))};
}

// The id of a chunk at which `mass`, that of all before it, passes `target`. Rounding can leave none:
// then the last one with a weight.
int64_t first_past(const float* weight, double mass, double target) {
    int64_t place = 0;
    for (int64_t i = 0; i < kChunk && mass <= target; ++i) {
        mass += weight[i];
        if (weight[i] > 0.0f) place = i;
    }
    return place;
}

}  // namespace

Draw draw(const void* data, const fe_logits& logits, float max, float temperature, int64_t top_k,
          float top_p, float uniform) {
    const Row row{data, logits, max, temperature};
    Row::Tile tile;
    float buffer[kTile];
    Cut cut;
    if (top_k > 0 && top_k < logits.vocab) {
        cut = cut_at(row, tile, cut, [](float) { return 1.0; },
                     [&](double) { return double(top_k - 1); });
        cut.ties = std::numeric_limits<int64_t>::max();  // ties at the k-th all stay
    }
    if (top_p < 1.0f)
        cut = cut_at(row, tile, cut, [](float weight) { return double(weight); },
                     [&](double mass) { return std::max(0.0, double(top_p)) * mass; });

    // First the mass of what is left, up to every chunk, then the id at which it passes the uniform.
    const int64_t tiles = (logits.vocab + kTile - 1) / kTile;
    std::vector<double> before(size_t(tiles * kTile / kChunk));
    std::vector<int64_t> passed(size_t(tiles), 0);  // ties at the cut, before every tile
    int64_t chunks = 0, seen = 0;
    row.tiles(tile, [&] {
        passed[size_t(tile.begin / kTile)] = seen;
        row_reader().masses(cut.weights(tile, seen, buffer), tile.chunks(), &before[size_t(chunks)]);
        chunks += tile.chunks();
    });
    double total = 0.0;
    for (int64_t i = 0; i < chunks; ++i) total += std::exchange(before[size_t(i)], total);
    const double target = double(uniform) * total;
    const auto past = std::upper_bound(before.begin(), before.begin() + chunks, target);
    const int64_t chunk = past - before.begin() - 1;  // the first has no mass before it
    const int64_t begin = chunk * kChunk / kTile * kTile;
    row.read(begin, tile);
    seen = passed[size_t(begin / kTile)];
    const float* weight = cut.weights(tile, seen, buffer) + (chunk * kChunk - begin);
    const int64_t place = first_past(weight, before[size_t(chunk)], target);
    return {chunk * kChunk + place, float(weight[place] / total)};
}

float uniform(uint64_t seed, int64_t position, int64_t forward, int64_t purpose) {
    return unit(philox(seed, 0, uint32_t(position), uint32_t(forward), uint32_t(purpose))[0]);
}

Words philox(uint64_t seed, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3) {
    uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
    for (int round = 0; round < 10; ++round) {
        const uint64_t a = uint64_t(0xD2511F53u) * c0, b = uint64_t(0xCD9E8D57u) * c2;
        c0 = uint32_t(b >> 32) ^ c1 ^ k0;
        c2 = uint32_t(a >> 32) ^ c3 ^ k1;
        c1 = uint32_t(b), c3 = uint32_t(a);
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    return {c0, c1, c2, c3};
}

}  // namespace fastedit

int32_t fe_uniform(const fe_uniform_args* args) {
    using fastedit::at;
    float* out = args->out;
    for (int64_t b = 0; b < args->blocks; ++b)
        for (int64_t i = 0; i < args->length; ++i, out += args->count)
            for (int64_t j = 0; j < args->count; j += 4) {
                const auto words = fastedit::philox(
                    uint64_t(at(args->seed, b, i)), uint32_t(j / 4), uint32_t(at(args->position, b, i)),
                    uint32_t(at(args->forward, b, i)), uint32_t(args->purpose));
                for (int64_t k = 0; k < std::min<int64_t>(4, args->count - j); ++k)
                    out[j + k] = fastedit::unit(words[size_t(k)]);
            }
    return 0;
}

int32_t fe_random_ids(const fe_random_ids_args* args) {
    using fastedit::at;
    const bool skips = args->forbidden >= 0 && args->forbidden < args->vocab;
    const int64_t ids = args->vocab - skips;
    int64_t* out = args->out;
    for (int64_t b = 0; b < args->blocks; ++b)
        for (int64_t i = 0; i < args->length; ++i) {
            const float number = fastedit::uniform(uint64_t(at(args->seed, b, i)), at(args->position, b, i),
                                                   at(args->forward, b, i), args->purpose);
            const int64_t id = std::min(int64_t(number * float(ids)), ids - 1);
            *out++ = id + (skips && id >= args->forbidden);
        }
    return 0;
}

uint32_t fe_philox(uint64_t seed, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3) {
    return fastedit::philox(seed, c0, c1, c2, c3)[0];
}
