// Inverse CDF over the ids in order. The filters find their cut-off by counting, digit by digit, on
// numbers ordered as the logits are: the row is read again, but neither sorted nor copied.
#include "sampling.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace fastedit {
namespace {

// Ascending with the value; -0 and +0 are one number.
uint32_t key_of(float z) {
    z += 0.0f;
    uint32_t bits;
    std::memcpy(&bits, &z, 4);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

struct Row {
    const void* data;
    const fe_logits& logits;
    float max, temperature;

    // Of one tile: its ids, z = (x - max) / temperature, exp(z).
    struct Tile {
        int64_t begin = -1, count = 0;
        float z[kTile], weight[kTile];
    };

    void read(int64_t begin, Tile& tile) const {
        if (tile.begin == begin) return;
        tile.begin = begin;
        tile.count = std::min(kTile, logits.vocab - begin);
        allowed_logits(data, logits, begin, tile.count, tile.z);
        row_reader().weigh(tile.z, tile.count, max, temperature, tile.weight);
    }

    template <class Visit>
    void tiles(Tile& tile, Visit visit) const {
        for (int64_t begin = 0; begin < logits.vocab; begin += kTile) {
            read(begin, tile);
            visit();
        }
    }
};

// What survives the filters: keys above `key`, and the first `ties` ids whose key is `key`.
struct Cut {
    uint32_t key = 0;
    int64_t ties = std::numeric_limits<int64_t>::max();

    // Weights of `tile`, 0 for what is cut off, perhaps in `buffer`; `seen` counts the ties.
    const float* weights(const Row::Tile& tile, int64_t& seen, float* buffer) const {
        if (key == 0) return tile.weight;  // below every number's
        for (int64_t i = 0; i < tile.count; ++i) {
            const uint32_t mine = key_of(tile.z[i]);
            const bool survives = mine > key || (mine == key && seen++ < ties);
            buffer[i] = survives ? tile.weight[i] : 0.0f;
        }
        return buffer;
    }
};

constexpr int64_t kChunk = 64;  // ids whose weights are added up in one go

double sum(const float* weight, int64_t count) {
    double parts[8] = {};  // in turn, since one addition waits for the last
    int64_t i = 0;
    for (; i + 8 <= count; i += 8)
        for (int k = 0; k < 8; ++k) parts[k] += weight[i + k];
    for (; i < count; ++i) parts[0] += weight[i];
    for (int k = 1; k < 8; ++k) parts[0] += parts[k];
    return parts[0];
}

constexpr int kDigits[] = {11, 11, 10};

// The highest key at which the keys from the top down pass `budget`, measured by `amount(weight)`,
// and how many ids with that key still fit: those whose predecessors measure at most `budget`.
template <class Amount>
Cut cut_at(const Row& row, Row::Tile& tile, const Cut& before, double budget, Amount amount) {
    uint32_t prefix = 0;
    int shift = 32;
    double above = 0.0, last = 0.0;  // measure of higher keys; of one id at the cut
    int64_t ids = 0;
    for (int digits : kDigits) {
        const uint32_t bins = 1u << digits;
        std::vector<double> measure(bins, 0.0);
        std::vector<int64_t> count(bins, 0);
        shift -= digits;
        row.tiles(tile, [&] {
            for (int64_t i = 0; i < tile.count; ++i) {
                const uint32_t key = key_of(tile.z[i]);
                if (key < before.key) continue;
                if (uint64_t(key) >> (shift + digits) != prefix) continue;
                const uint32_t bin = key >> shift & (bins - 1);
                measure[bin] += amount(tile.weight[i]);
                ++count[bin];
            }
        });
        // The lowest bin whose highest id still fits.
        uint32_t found = bins;
        double reached = above;
        for (uint32_t bin = bins; bin-- > 0 && reached <= budget; reached += measure[bin])
            if (count[bin] > 0) found = bin, above = reached;
        ids = count[found];
        last = measure[found] / double(ids);
        prefix = prefix << digits | found;
    }
    const double fit = last > 0.0 ? std::floor((budget - above) / last) + 1.0 : double(ids);
    return {prefix, fit < double(ids) ? int64_t(fit) : ids};
}

}  // namespace

Draw draw(const void* data, const fe_logits& logits, float max, float temperature, int64_t top_k,
          float top_p, float uniform) {
    const Row row{data, logits, max, temperature};
    Row::Tile tile;
    float buffer[kTile];
    Cut cut;
    if (top_k > 0 && top_k < logits.vocab) {
        cut = cut_at(row, tile, cut, double(top_k - 1), [](float) { return 1.0; });
        cut.ties = std::numeric_limits<int64_t>::max();  // ties at the k-th all stay
    }
    if (top_p < 1.0f) {
        double mass = 0.0;
        int64_t seen = 0;
        row.tiles(tile, [&] { mass += sum(cut.weights(tile, seen, buffer), tile.count); });
        const double budget = std::max(0.0, double(top_p)) * mass;
        cut = cut_at(row, tile, cut, budget, [](float weight) { return double(weight); });
    }

    // First the mass of what is left, up to every chunk, then the id at which it passes the
    // uniform.
    std::vector<double> before;
    std::vector<int64_t> passed;  // ties at the cut, before every tile
    before.reserve(size_t(logits.vocab / kChunk + 1));
    passed.reserve(size_t(logits.vocab / kTile + 1));
    double total = 0.0;
    int64_t seen = 0;
    row.tiles(tile, [&] {
        passed.push_back(seen);
        const float* weight = cut.weights(tile, seen, buffer);
        for (int64_t i = 0; i < tile.count; i += kChunk) {
            before.push_back(total);
            total += sum(weight + i, std::min(kChunk, tile.count - i));
        }
    });
    const double target = double(uniform) * total;
    const auto past = std::upper_bound(before.begin(), before.end(), target);
    const int64_t chunk = past - before.begin() - 1;  // the first has no mass before it
    const int64_t begin = chunk * kChunk / kTile * kTile, first = chunk * kChunk - begin;
    row.read(begin, tile);
    seen = passed[size_t(begin / kTile)];
    const float* weight = cut.weights(tile, seen, buffer);
    double mass = before[size_t(chunk)];
    Draw drawn{-1, 0.0f};
    for (int64_t i = first; i < std::min(first + kChunk, tile.count) && mass <= target; ++i) {
        if (weight[i] <= 0.0f) continue;
        mass += weight[i];
        drawn = {begin + i, float(weight[i] / total)};
    }
    return drawn;
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

uint32_t fe_philox(uint64_t seed, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3) {
    return fastedit::philox(seed, c0, c1, c2, c3)[0];
}
