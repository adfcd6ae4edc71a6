// AVX2 with FMA and F16C. Compiled with those flags; reached only where the processor has them.
#include <immintrin.h>

#include "row_template.h"
#include "weights.h"

namespace fastedit {
namespace {

struct Avx2 {
    static constexpr int kWidth = 8;
    using F = __m256;
    using M = __m256;

    static F set(float x) { return _mm256_set1_ps(x); }
    static F load(const float* p) { return _mm256_loadu_ps(p); }
    static F load_bf16(const uint16_t* p) {
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half(p)), 16));
    }
    static void load_bf16_pairs(const uint16_t* p, F& even, F& odd) {
        const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
        even = _mm256_castsi256_ps(_mm256_slli_epi32(x, 16));
        odd = _mm256_castsi256_ps(_mm256_and_si256(x, _mm256_set1_epi32(int(0xffff0000u))));
    }
    static F load_fp16(const uint16_t* p) { return _mm256_cvtph_ps(half(p)); }
    static void store(float* p, F x) { _mm256_storeu_ps(p, x); }
    static F add(F a, F b) { return _mm256_add_ps(a, b); }
    static F sub(F a, F b) { return _mm256_sub_ps(a, b); }
    static F mul(F a, F b) { return _mm256_mul_ps(a, b); }
    static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
    static F fms(F a, F b, F c) { return _mm256_fmsub_ps(a, b, c); }
    static F max(F a, F b) { return _mm256_max_ps(a, b); }  // b where a is NaN
    static F min(F a, F b) { return _mm256_min_ps(a, b); }
    static F where_above(F x, F limit, F value) {
        return _mm256_and_ps(_mm256_cmp_ps(x, limit, _CMP_GT_OQ), value);
    }
    static F scale_by_power(F p, F shifted) {
        const __m256i power = _mm256_slli_epi32(_mm256_castps_si256(shifted), 23);
        return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), power));
    }
    static M none() { return _mm256_setzero_ps(); }
    static M either(M a, M b) { return _mm256_or_ps(a, b); }
    static bool any(M a) { return _mm256_movemask_ps(a) != 0; }
    static M unordered(F a, F b) { return _mm256_cmp_ps(a, b, _CMP_UNORD_Q); }
    static unsigned equal_bits(F a, F b) {
        return unsigned(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_EQ_OQ)));
    }
    static unsigned above_bits(F a, F b) {
        return unsigned(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ)));
    }

private:
    static __m128i half(const uint16_t* p) {
        return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    }
};

}  // namespace

const RowReader kAvx2 = {"avx2", Reader<Avx2>::read, power<Avx2>, weigh<Avx2>, masses, between<Avx2>};

}  // namespace fastedit
