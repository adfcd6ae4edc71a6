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

    // f(first id, how many, z, exp(z)) for every tile, z = (x - max) / temperature.
    template <class Visit>
    void tiles(Visit visit) const {
        float z[kTile], weight[kTile];
        for (int64_t at = 0; at < logits.vocab; at += kTile) {
            const int64_t count = std::min(kTile, logits.vocab - at);
            allowed_logits(data, logits, at, count, z);
            for (int64_t i = 0; i < count; ++i) z[i] = (z[i] - max) / temperature;
            row_reader().exponentials(z, count, weight);
            visit(at, count, z, weight);
        }
    }
};

// What survives the filters: keys above `key`, and the first `ties` ids whose key is `key`.
struct Cut {
    uint32_t key = 0;
    int64_t ties = std::numeric_limits<int64_t>::max();
};

constexpr int kDigits[] = {11, 11, 10};

// The highest key at which the keys from the top down pass `budget`, measured by `amount(weight)`,
// and how many ids with that key still fit: those whose predecessors measure at most `budget`.
template <class Amount>
Cut cut_at(const Row& row, const Cut& before, double budget, Amount amount) {
    uint32_t prefix = 0;
    int shift = 32;
    double above = 0.0, last = 0.0;  // measure of higher keys; of one id at the cut
    int64_t ids = 0;
    for (int digits : kDigits) {
        const uint32_t bins = 1u << digits;
        std::vector<double> measure(bins, 0.0);
        std::vector<int64_t> count(bins, 0);
        shift -= digits;
        row.tiles([&](int64_t, int64_t n, const float* z, const float* weight) {
            for (int64_t i = 0; i < n; ++i) {
                const uint32_t key = key_of(z[i]);
                if (key < before.key) continue;
                if (uint64_t(key) >> (shift + digits) != prefix) continue;
                const uint32_t bin = key >> shift & (bins - 1);
                measure[bin] += amount(weight[i]);
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
    Cut cut;
    if (top_k > 0 && top_k < logits.vocab) {
        cut = cut_at(row, cut, double(top_k - 1), [](float) { return 1.0; });
        cut.ties = std::numeric_limits<int64_t>::max();  // ties at the k-th all stay
    }
    if (top_p < 1.0f) {
        double mass = 0.0;
        row.tiles([&](int64_t, int64_t n, const float* z, const float* weight) {
            for (int64_t i = 0; i < n; ++i)
                if (key_of(z[i]) >= cut.key) mass += weight[i];
        });
        cut = cut_at(row, cut, std::max(0.0, double(top_p)) * mass, [](float weight) { return double(weight); });
    }

    // First the mass of what is left, then the id at which the running mass passes the uniform.
    const auto survivors = [&](auto visit) {
        int64_t ties = cut.ties;
        row.tiles([&](int64_t at, int64_t n, const float* z, const float* weight) {
            for (int64_t i = 0; i < n; ++i) {
                const uint32_t key = key_of(z[i]);
                if (key > cut.key || (key == cut.key && ties-- > 0)) visit(at + i, weight[i]);
            }
        });
    };
    double total = 0.0, running = 0.0;
    survivors([&](int64_t, float weight) { total += weight; });
    const double target = double(uniform) * total;
    Draw drawn{-1, 0.0f};
    bool passed = false;
    survivors([&](int64_t id, float weight) {
        if (passed || weight <= 0.0f) return;
        running += weight;
        passed = running > target;
        drawn = {id, float(weight / total)};  // the last one, should rounding let none pass
    });
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
    for (int64_t i = 0; i < args->elements; ++i)
        for (int64_t j = 0; j < args->count; j += 4) {
            const auto words = fastedit::philox(uint64_t(args->seed[i]), uint32_t(j / 4),
                                                uint32_t(args->position[i]),
                                                uint32_t(args->forward[i]), uint32_t(args->purpose));
            float* out = args->out + i * args->count + j;
            for (int64_t k = 0; k < std::min<int64_t>(4, args->count - j); ++k)
                out[k] = fastedit::unit(words[size_t(k)]);
        }
    return 0;
}

uint32_t fe_philox(uint64_t seed, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3) {
    return fastedit::philox(seed, c0, c1, c2, c3)[0];
}
