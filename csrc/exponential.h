// Powers of two, for the sums of a row and for the weights of a draw. `V`: as in lanes.h.
#pragma once
#include <cmath>

#include "row.h"

namespace fastedit {
namespace {

inline float exponential_floor(float scale, double reference) {
    return float((reference - 125.0) / scale);
}

// 2^(x * scale - reference). Far below the reference everything counts 2^-125: nothing, beside
// what the maximum counts.
template <class V>
struct Exponential {
    using F = typename V::F;
    F least, scale, shift, reference;

    Exponential(float scale, double reference)
        : least(V::set(exponential_floor(scale, reference))), scale(V::set(scale)),
          // 1.5 * 2^23 rounds to integers, and leaves the exponent in the lowest bits.
          shift(V::set(float(12582912.0 - reference))), reference(V::set(float(reference))) {}

    F clamp(F x) const { return V::max(least, x); }  // NaN stays

    F operator()(F x) const {
        const F shifted = V::fma(x, scale, shift);
        const F r = V::fms(x, scale, V::sub(shifted, shift));
        F p = V::set(1.32647145e-3f);
        p = V::fma(p, r, V::set(9.67151392e-3f));
        p = V::fma(p, r, V::set(5.55073395e-2f));
        p = V::fma(p, r, V::set(2.40222424e-1f));
        p = V::fma(p, r, V::set(6.93147004e-1f));
        p = V::fma(p, r, V::set(1.0f));
        return V::scale_by_power(p, shifted);
    }
};

constexpr double kFar = 1 << 21;  // beyond, `shifted` has no room for a fraction

template <class V>
inline float power(float x, float scale, double reference) {
    if (std::fabs(reference) > kFar || x <= exponential_floor(scale, reference))
        return float(std::exp2(x * double(scale) - reference));
    const Exponential<V> exponential(scale, reference);
    float lanes[V::kWidth];
    V::store(lanes, exponential(exponential.clamp(V::set(x))));
    return lanes[0];
}

}  // namespace
}  // namespace fastedit
