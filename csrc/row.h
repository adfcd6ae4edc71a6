// One read of a row: what is kept of it, how parts merge, and the code that reads per instruction set.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "fastedit.h"

namespace fastedit {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kLargest = std::numeric_limits<float>::max();
constexpr double kLog2e = 1.44269504088896341, kLn2 = 0.693147180559945309;

constexpr int64_t kTile = 2048;    // fits the first-level cache, so its second pass is free
constexpr int64_t kChunk = 64;     // of a draw: ids whose weights are added up in one go
constexpr int64_t kSplit = 16384;  // unit of parallel work; a function of nothing but this constant

// Exponents are powers of two: t = x * scale - reference with scale = log2(e) / temperature. The
// reference is the maximum's exponent rounded to an integer, so moving it multiplies by a power of
// two, which is exact.
struct RowState {
    float max = -kInf;        // over all ids
    float best = -kInf;       // over the ids that may be chosen
    int64_t index = -1;       // of `best`, the lowest
    double reference = -kInf;
    float sum = 0.0f;         // of 2^t over the ids
    float weighted = 0.0f;    // of t * 2^t
    bool bad = false;         // NaN or +inf was seen

    void include(float logit, double scale) {
        if (!(logit > max)) return;
        max = logit;
        raise(std::rint(logit * scale));
    }

    void raise(double to) {
        if (to > reference && sum > 0.0f) {
            const double shift = reference - to, factor = std::exp2(shift);
            weighted = float(factor * (weighted + std::fmax(shift, -2000.0) * sum));
            sum = float(factor * sum);
        }
        reference = to;
    }

    // `other` covers higher ids. The order of merges is fixed, so are the bits.
    void merge(RowState other) {
        bad |= other.bad;
        if (other.best > best) best = other.best, index = other.index;
        if (other.max == -kInf) return;
        max = std::fmax(max, other.max);
        const double to = std::fmax(reference, other.reference);
        raise(to);
        other.raise(to);
        sum += other.sum;
        weighted += other.weighted;
    }
};

constexpr int64_t kMostRanks = 8;

// The `wanted` best ids that may be chosen, best first, the lowest on ties; fewer where no more are.
struct Ranking {
    int64_t wanted = 0, count = 0;
    float logit[kMostRanks] = {};
    int64_t id[kMostRanks] = {};

    // What a logit has to exceed to enter, -inf while there is room.
    float least() const { return count < wanted ? -kInf : logit[wanted - 1]; }

    // Ids come in ascending order, so that of two equal logits the earlier stays in front.
    void enter(float x, int64_t token) {
        int64_t at = count < wanted ? count++ : wanted - 1;
        for (; at > 0 && x > logit[at - 1]; --at) logit[at] = logit[at - 1], id[at] = id[at - 1];
        logit[at] = x;
        id[at] = token;
    }

    // `other` covers higher ids.
    void merge(const Ranking& other) {
        for (int64_t i = 0; i < other.count && other.logit[i] > least(); ++i)
            enter(other.logit[i], other.id[i]);
    }
};

struct RowReader {
    const char* name;
    // Ids [begin, end) of the row at `row`. `ranking`: NULL where none is wanted.
    RowState (*read)(const void* row, const fe_logits& logits, int64_t begin, int64_t end,
                     float scale, bool entropy, Ranking* ranking);
    // 2^(x * scale - reference), with the very bits that `read` adds up: equal logits share evenly.
    float (*power)(float x, float scale, double reference);
    // z = (x - max) / temperature of `count` ids from `begin` on, none above 0, and exp(z); -inf and 0
    // of what may not be chosen, and behind the last one up to a whole chunk. `max`: largest logit
    // that may be chosen.
    void (*weigh)(const void* row, const fe_logits& logits, int64_t begin, int64_t count, float max,
                  float temperature, float* z, float* out);
    // Sums of the weights of so many chunks, in double.
    void (*masses)(const float* weight, int64_t chunks, double* out);
    // The places of the numbers from `least` to `highest`, among `count` of them; how many they are.
    int64_t (*between)(const float* x, int64_t count, float least, float highest, int32_t* out);
};

extern const RowReader kPortable, kAvx2, kAvx512;
const RowReader& row_reader();

// `scale` in full; rows were read with it rounded to fp32, which shifts all of a row alike and the
// logits far below the maximum a little more: those are not taken over.
inline float probability(const RowState& state, float logit, double scale) {
    if (state.max == -kInf) return 0.0f;
    const float used = float(scale);
    if (logit == state.max) return row_reader().power(logit, used, state.reference) / state.sum;
    const double top = state.max * double(used) - state.reference;
    return float(std::exp2((double(logit) - state.max) * scale + top) / state.sum);
}

inline int64_t element_size(int64_t dtype) { return dtype == FE_FP32 ? 4 : 2; }

inline const char* row_at(const fe_logits& logits, int64_t block, int64_t place) {
    const int64_t offset = block * logits.block_stride + place * logits.row_stride;
    return static_cast<const char*>(logits.data) + offset * element_size(logits.dtype);
}

inline float from_bf16(uint16_t bits) {
    const uint32_t wide = uint32_t(bits) << 16;
    float value;
    __builtin_memcpy(&value, &wide, 4);
    return value;
}

inline float from_fp16(uint16_t bits) {
    const uint32_t sign = uint32_t(bits & 0x8000) << 16, exponent = bits >> 10 & 31;
    const uint32_t fraction = bits & 0x3ff;
    if (exponent == 0) {  // zero and subnormals: fraction * 2^-24, exact
        const float value = float(fraction) * 0x1p-24f;
        return sign ? -value : value;
    }
    const uint32_t wide = sign | (exponent == 31 ? 255u : exponent + 112) << 23 | fraction << 13;
    float value;
    __builtin_memcpy(&value, &wide, 4);
    return value;
}

inline float logit_at(const void* row, int64_t dtype, int64_t id) {
    if (dtype == FE_FP32) return static_cast<const float*>(row)[id];
    const uint16_t bits = static_cast<const uint16_t*>(row)[id];
    return dtype == FE_BF16 ? from_bf16(bits) : from_fp16(bits);
}

// NaN counts as -inf and +inf as the largest number.
inline float finite(float x) { return x != x ? -kInf : x > kLargest ? kLargest : x; }

// Whether `id` may not be chosen.
inline bool forbidden(const fe_logits& logits, int64_t id) {
    const int64_t* end = logits.forbid + logits.forbid_count;
    return std::find(logits.forbid, end, id) != end;
}

// `count` logits from id `begin` on, finite, with -inf for what may not be chosen.
inline void allowed_logits(const void* row, const fe_logits& logits, int64_t begin, int64_t count,
                           float* out) {
    const auto copy = [&](int64_t dtype) {  // a loop for each, with nothing to decide inside
        for (int64_t i = 0; i < count; ++i) out[i] = finite(logit_at(row, dtype, begin + i));
    };
    if (logits.dtype == FE_FP32) copy(FE_FP32);
    if (logits.dtype == FE_BF16) copy(FE_BF16);
    if (logits.dtype == FE_FP16) copy(FE_FP16);
    for (int64_t f = 0; f < logits.forbid_count; ++f) {
        const int64_t place = logits.forbid[f] - begin;
        if (place >= 0 && place < count) out[place] = -kInf;
    }
}

}  // namespace fastedit
