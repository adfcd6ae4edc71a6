// What a draw reads of a row: the weights of its ids, and sums of them.
#pragma once
#include <algorithm>

#include "exponential.h"
#include "lanes.h"

namespace fastedit {
namespace {

template <class V, int dtype>
inline void weigh_as(const void* from, int64_t count, float max, float temperature, float* z,
              float* out) {
    using F = typename V::F;
    const Exponential<V> exponential(kLog2e, 0.0);
    const F top = V::set(max), scale = V::set(1.0f / temperature), least = V::set(-kInf);
    const auto weigh_one = [&](F x, float* z, float* out) {
        // NaN counts as -inf; +inf as the largest number, and then that is `max`.
        x = V::min(V::mul(V::sub(V::max(x, least), top), scale), V::set(0.0f));
        V::store(z, x);
        // exp(-inf) is 0 here, where every weight may be as small.
        V::store(out, V::where_above(x, exponential.least, exponential(exponential.clamp(x))));
    };
    const int64_t whole = count - count % V::kWidth;
    for (int64_t i = 0; i < whole; i += V::kWidth)
        weigh_one(load_one<V, dtype>(from, i), z + i, out + i);
    float x[V::kWidth];
    for (int64_t i = whole; i < count; i += V::kWidth) {
        for (int64_t k = 0; k < V::kWidth; ++k)
            x[k] = i + k < count ? logit_at(from, dtype, i + k) : -kInf;
        weigh_one(V::load(x), z + i, out + i);
    }
    const int64_t end = (count + V::kWidth - 1) / V::kWidth * V::kWidth;
    const int64_t padded = (count + kChunk - 1) / kChunk * kChunk;
    std::fill(z + end, z + padded, -kInf);
    std::fill(out + end, out + padded, 0.0f);
}

template <class V>
inline void weigh(const void* row, const fe_logits& logits, int64_t begin, int64_t count, float max,
           float temperature, float* z, float* out) {
    const void* from = static_cast<const char*>(row) + begin * element_size(logits.dtype);
    switch (logits.dtype) {
        case FE_FP32: weigh_as<V, FE_FP32>(from, count, max, temperature, z, out); break;
        case FE_BF16: weigh_as<V, FE_BF16>(from, count, max, temperature, z, out); break;
        default: weigh_as<V, FE_FP16>(from, count, max, temperature, z, out);
    }
    for (int64_t f = 0; f < logits.forbid_count; ++f) {
        const int64_t place = logits.forbid[f] - begin;
        if (place >= 0 && place < count) z[place] = -kInf, out[place] = 0.0f;
    }
}

inline void masses(const float* weight, int64_t chunks, double* out) {
    for (int64_t chunk = 0; chunk < chunks; ++chunk, weight += kChunk) {
        double parts[16] = {};  // in turn, since one addition waits for the last
        for (int64_t i = 0; i < kChunk; i += 16)
            for (int k = 0; k < 16; ++k) parts[k] += weight[i + k];
        for (int k = 0; k < 8; ++k) parts[k] += parts[k + 8];
        for (int k = 0; k < 4; ++k) parts[k] += parts[k + 4];
        out[chunk] = (parts[0] + parts[2]) + (parts[1] + parts[3]);
    }
}

template <class V>
inline int64_t between(const float* from, int64_t count, float least, float highest, int32_t* out) {
    using F = typename V::F;
    const F low = V::set(least), high = V::set(highest);
    int64_t found = 0;
    for (int64_t i = 0; i < count; i += V::kWidth) {
        const F x = V::load(from + i);
        unsigned bits = ~(V::above_bits(low, x) | V::above_bits(x, high));
        bits &= (1u << std::min<int64_t>(V::kWidth, count - i)) - 1;
        for (; bits; bits &= bits - 1) out[found++] = int32_t(i + __builtin_ctz(bits));
    }
    return found;
}

}  // namespace
}  // namespace fastedit
