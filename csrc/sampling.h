// Random words, keyed by place in a text and never by place in the batch, and draws from rows.
#pragma once
#include <array>

#include "row.h"

namespace fastedit {

// In the range of temperatures that may be asked for.
inline float held_temperature(float temperature) { return std::fmin(std::fmax(temperature, 1e-30f), 1e30f); }

struct Draw {
    int64_t token;
    float prob;  // after all filters
};

// `max`: largest logit that may be chosen; there is one. `uniform` in [0, 1).
Draw draw(const void* row, const fe_logits& logits, float max, float temperature, int64_t top_k,
          float top_p, float uniform);

template <class Numbers>
auto at(const Numbers& numbers, int64_t block, int64_t row) {
    return numbers.data[block * numbers.block_stride + row * numbers.row_stride];
}

// Purposes, which keep the random words of different uses apart.
constexpr uint32_t kDraft = 0, kDecode = 3;

using Words = std::array<uint32_t, 4>;

// Philox4x32-10 under `seed` at counter (c0, c1, c2, c3).
Words philox(uint64_t seed, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3);

// In [0, 1), from 24 bits of a word.
inline float unit(uint32_t word) { return float(word >> 8) * 0x1p-24f; }

float uniform(uint64_t seed, int64_t position, int64_t forward, int64_t purpose);

}  // namespace fastedit
