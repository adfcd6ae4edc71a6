// Plain C++ in groups of eight, which compilers turn into whatever vectors the target has.
#include <cstring>

#include "row_template.h"
#include "weights.h"

namespace fastedit {
namespace {

struct Portable {
    static constexpr int kWidth = 8;
    struct F {
        float lane[kWidth];
    };
    struct M {
        uint32_t bits;
    };

    template <class Op>
    static F each(Op op) {
        F out;
        for (int i = 0; i < kWidth; ++i) out.lane[i] = op(i);
        return out;
    }
    template <class Op>
    static M flags(Op op) {
        M out{0};
        for (int i = 0; i < kWidth; ++i) out.bits |= uint32_t(op(i)) << i;
        return out;
    }

    static F set(float x) { return each([=](int) { return x; }); }
    static F load(const float* p) { return each([=](int i) { return p[i]; }); }
    static F load_bf16(const uint16_t* p) { return each([=](int i) { return from_bf16(p[i]); }); }
    static void load_bf16_pairs(const uint16_t* p, F& first, F& second) {
        first = load_bf16(p), second = load_bf16(p + kWidth);
    }
    static F load_fp16(const uint16_t* p) { return each([=](int i) { return from_fp16(p[i]); }); }
    static void store(float* p, F x) { std::memcpy(p, x.lane, sizeof x.lane); }
    static F add(F a, F b) { return each([&](int i) { return a.lane[i] + b.lane[i]; }); }
    static F sub(F a, F b) { return each([&](int i) { return a.lane[i] - b.lane[i]; }); }
    static F mul(F a, F b) { return each([&](int i) { return a.lane[i] * b.lane[i]; }); }
    // In double, whose product of floats is exact: as good as fused.
    static F fma(F a, F b, F c) {
        return each([&](int i) { return float(double(a.lane[i]) * b.lane[i] + c.lane[i]); });
    }
    static F fms(F a, F b, F c) {
        return each([&](int i) { return float(double(a.lane[i]) * b.lane[i] - c.lane[i]); });
    }
    static F max(F a, F b) { return each([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; }); }
    static F min(F a, F b) { return each([&](int i) { return a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]; }); }
    static F where_above(F x, F limit, F value) {
        return each([&](int i) { return x.lane[i] > limit.lane[i] ? value.lane[i] : 0.0f; });
    }
    static F scale_by_power(F p, F shifted) {
        return each([&](int i) {
            uint32_t bits, power;
            std::memcpy(&bits, &p.lane[i], 4);
            std::memcpy(&power, &shifted.lane[i], 4);
            bits += power << 23;
            float out;
            std::memcpy(&out, &bits, 4);
            return out;
        });
    }
    static M none() { return {0}; }
    static M either(M a, M b) { return {a.bits | b.bits}; }
    static bool any(M a) { return a.bits != 0; }
    static M unordered(F a, F b) {
        return flags([&](int i) { return a.lane[i] != a.lane[i] || b.lane[i] != b.lane[i]; });
    }
    static unsigned equal_bits(F a, F b) {
        return flags([&](int i) { return a.lane[i] == b.lane[i]; }).bits;
    }
    static unsigned above_bits(F a, F b) {
        return flags([&](int i) { return a.lane[i] > b.lane[i]; }).bits;
    }
};

}  // namespace

const RowReader kPortable = {"portable", Reader<Portable>::read, power<Portable>, weigh<Portable>, masses, between<Portable>};
#if !defined(__x86_64__)
const RowReader kAvx2 = {}, kAvx512 = {};  // not in this build
#endif

}  // namespace fastedit
