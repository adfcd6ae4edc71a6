// AVX-512 F. Compiled with that flag; reached only where the processor has it.
#include <immintrin.h>

#include "row_template.h"
#include "weights.h"

namespace fastedit {
namespace {

struct Avx512 {
    static constexpr int kWidth = 16;
    using F = __m512;
    using M = __mmask16;

    static F set(float x) { return _mm512_set1_ps(x); }
    static F load(const float* p) { return _mm512_loadu_ps(p); }
    static F load_bf16(const uint16_t* p) {
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half(p)), 16));
    }
    static void load_bf16_pairs(const uint16_t* p, F& even, F& odd) {
        const __m512i x = _mm512_loadu_si512(p);
        even = _mm512_castsi512_ps(_mm512_slli_epi32(x, 16));
        odd = _mm512_castsi512_ps(_mm512_and_si512(x, _mm512_set1_epi32(int(0xffff0000u))));
    }
    static F load_fp16(const uint16_t* p) { return _mm512_cvtph_ps(half(p)); }
    static void store(float* p, F x) { _mm512_storeu_ps(p, x); }
    static F add(F a, F b) { return _mm512_add_ps(a, b); }
    static F sub(F a, F b) { return _mm512_sub_ps(a, b); }
    static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
    static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
    static F fms(F a, F b, F c) { return _mm512_fmsub_ps(a, b, c); }
    static F max(F a, F b) { return _mm512_max_ps(a, b); }  // b where a is NaN
    static F min(F a, F b) { return _mm512_min_ps(a, b); }
    static F where_above(F x, F limit, F value) {
        return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, limit, _CMP_GT_OQ), value);
    }
    static F scale_by_power(F p, F shifted) {
        const __m512i power = _mm512_slli_epi32(_mm512_castps_si512(shifted), 23);
        return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(p), power));
    }
    static M none() { return 0; }
    static M either(M a, M b) { return M(a | b); }
    static bool any(M a) { return a != 0; }
    static M unordered(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q); }
    static unsigned equal_bits(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
    static unsigned above_bits(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }

private:
    static __m256i half(const uint16_t* p) {
        return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    }
};

}  // namespace

const RowReader kAvx512 = {"avx512", Reader<Avx512>::read, power<Avx512>, weigh<Avx512>, masses, between<Avx512>};

}  // namespace fastedit
