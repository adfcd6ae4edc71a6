// Logits as vectors: `V` is a set of vector operations of width V::kWidth.
//
// Templates are marked inline, too: g++ makes calls of some of them else.
#pragma once
#include <algorithm>

#include "row.h"

namespace fastedit {
namespace {

constexpr int kUnroll = 4;  // independent accumulators hide the latency of max and add

template <class V>
constexpr int64_t kStep = kUnroll * V::kWidth;

// kUnroll vectors, in any fixed order: halves of a 16-bit pair come apart more cheaply than in theirs.
template <class V, int dtype>
inline void load(const void* from, int64_t i, typename V::F* out) {
    for (int u = 0; u < kUnroll; u += 2, i += 2 * V::kWidth) {
        if constexpr (dtype == FE_FP32) {
            const float* p = static_cast<const float*>(from) + i;
            out[u] = V::load(p), out[u + 1] = V::load(p + V::kWidth);
        } else {
            const uint16_t* p = static_cast<const uint16_t*>(from) + i;
            if constexpr (dtype == FE_BF16)
                V::load_bf16_pairs(p, out[u], out[u + 1]);
            else
                out[u] = V::load_fp16(p), out[u + 1] = V::load_fp16(p + V::kWidth);
        }
    }
}

// Fetches what is to be read kWindow bytes after `at`, `bytes` of it. In a window the order is a
// line of each page, then the next line of each: a processor that follows accesses page by page
// begins anew in every page, and eight at once come in nearly twice as fast as one after another.
inline void fetch_ahead(const char* at, int64_t bytes) {
    constexpr uintptr_t kPage = 4096, kLine = 64, kPages = 8, kWindow = kPages * kPage;
    for (int64_t i = 0; i < bytes; i += kLine) {
        const uintptr_t address = reinterpret_cast<uintptr_t>(at + i);
        const uintptr_t line = address % kWindow / kLine;
        const uintptr_t next = address - address % kWindow + kWindow;
        __builtin_prefetch(reinterpret_cast<const void*>(
            next + line % kPages * kPage + line / kPages * kLine));
    }
}

// visit(kUnroll vectors) for all of the tile, the last ones padded with -inf. `ahead`: what follows
// the tile is fetched meanwhile.
template <class V, int dtype, bool ahead, class Visit>
inline void steps(const void* from, int64_t count, Visit visit) {
    typename V::F x[kUnroll];
    const int64_t whole = count - count % kStep<V>;
    for (int64_t i = 0; i < whole; i += kStep<V>) {
        if constexpr (ahead) {
            const int64_t size = element_size(dtype);
            fetch_ahead(static_cast<const char*>(from) + i * size, kStep<V> * size);
        }
        load<V, dtype>(from, i, x);
        visit(x);
    }
    if (whole == count) return;
    float buffer[kStep<V>];
    for (int64_t i = 0; i < kStep<V>; ++i)
        buffer[i] = whole + i < count ? logit_at(from, dtype, whole + i) : -kInf;
    load<V, FE_FP32>(buffer, 0, x);
    visit(x);
}

template <class V, int dtype>
inline typename V::F load_one(const void* from, int64_t i) {
    if constexpr (dtype == FE_FP32) return V::load(static_cast<const float*>(from) + i);
    const uint16_t* half = static_cast<const uint16_t*>(from) + i;
    if constexpr (dtype == FE_BF16) return V::load_bf16(half);
    return V::load_fp16(half);
}

template <class V>
inline typename V::F most_of(const typename V::F* x) {
    return V::max(V::max(x[0], x[1]), V::max(x[2], x[3]));
}

template <class V>
inline float total(const typename V::F* parts) {
    float lanes[V::kWidth], sum = 0.0f;
    V::store(lanes, V::add(V::add(parts[0], parts[1]), V::add(parts[2], parts[3])));
    for (float lane : lanes) sum += lane;
    return sum;
}

}  // namespace
}  // namespace fastedit
