// Reading a row, written once for every instruction set.
//
// A tile is read once, for its maximum and for the sums of exponentials, which are taken against the
// reference of the tiles before it. Where that does not serve, it is read twice: for its maximum, which
// comes from memory, and for the sums, which come from the first-level cache. With entropy, whose bits
// depend on the reference, the sums are taken again where a tile raises it.
// `V` is a set of vector operations of width V::kWidth.
#pragma once
#include <algorithm>

#include "row.h"

namespace fastedit {
namespace {

constexpr int kUnroll = 4;  // independent accumulators hide the latency of max and add

template <class V>
struct Reader {
    using F = typename V::F;
    static constexpr int64_t kStep = kUnroll * V::kWidth;

    // kUnroll vectors, in any fixed order: halves of a 16-bit pair come apart more cheaply than in
    // theirs.
    template <int dtype>
    static void load(const void* from, int64_t i, F* out) {
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
    static void fetch_ahead(const char* at, int64_t bytes) {
        constexpr uintptr_t kPage = 4096, kLine = 64, kPages = 8, kWindow = kPages * kPage;
        for (int64_t i = 0; i < bytes; i += kLine) {
            const uintptr_t address = reinterpret_cast<uintptr_t>(at + i);
            const uintptr_t line = address % kWindow / kLine;
            const uintptr_t next = address - address % kWindow + kWindow;
            __builtin_prefetch(reinterpret_cast<const void*>(
                next + line % kPages * kPage + line / kPages * kLine));
        }
    }

    // visit(kUnroll vectors) for all of the tile, the last ones padded with -inf. `ahead`: what
    // follows the tile is fetched meanwhile.
    template <int dtype, bool ahead, class Visit>
    static void steps(const void* from, int64_t count, Visit visit) {
        F x[kUnroll];
        const int64_t whole = count - count % kStep;
        for (int64_t i = 0; i < whole; i += kStep) {
            if constexpr (ahead) {
                const int64_t size = element_size(dtype);
                fetch_ahead(static_cast<const char*>(from) + i * size, kStep * size);
            }
            load<dtype>(from, i, x);
            visit(x);
        }
        if (whole == count) return;
        float buffer[kStep];
        for (int64_t i = 0; i < kStep; ++i)
            buffer[i] = whole + i < count ? logit_at(from, dtype, whole + i) : -kInf;
        load<FE_FP32>(buffer, 0, x);
        visit(x);
    }

    // The largest logits of a tile, one per lane, without its NaNs.
    struct Peaks {
        F lane[kUnroll];

        Peaks() { for (F& l : lane) l = V::set(-kInf); }

        void see(const F* x) {
            for (int u = 0; u < kUnroll; ++u) lane[u] = V::max(x[u], lane[u]);  // not NaN of x
        }

        float highest() const {
            float lanes[V::kWidth];
            V::store(lanes, most_of(lane));
            return *std::max_element(lanes, lanes + V::kWidth);
        }

        // What the `place` best logits of the tile have at least.
        float at_least(int64_t place) const {
            float lanes[kStep];
            for (int u = 0; u < kUnroll; ++u) V::store(lanes + u * V::kWidth, lane[u]);
            if (place > 12) return -kInf;
            return place <= 4 ? best_of<8>(lanes, place) : best_of<16>(lanes, place);
        }

    private:
        // The `place`-th of N peaks, each of several lanes.
        template <int N>
        static float best_of(float* lanes, int64_t place) {
            for (int64_t half = kStep / 2; half >= N; half /= 2)
                for (int64_t i = 0; i < half; ++i) lanes[i] = std::max(lanes[i], lanes[i + half]);
            for (int round = 0; round < N; ++round)  // odd-even sort: nothing to mispredict
                for (int i = round % 2; i + 1 < N; i += 2) {
                    const float a = lanes[i], b = lanes[i + 1];
                    lanes[i] = std::max(a, b), lanes[i + 1] = std::min(a, b);
                }
            return lanes[place - 1];
        }
    };

    static F most_of(const F* x) { return V::max(V::max(x[0], x[1]), V::max(x[2], x[3])); }

    // `nan`: there are some.
    template <int dtype>
    static Peaks peaks(const void* from, int64_t count, bool& nan) {
        Peaks peaks;
        typename V::M odd = V::none();
        steps<dtype, false>(from, count, [&](const F* x) {
            for (int u = 0; u < kUnroll; u += 2) odd = V::either(odd, V::unordered(x[u], x[u + 1]));
            peaks.see(x);
        });
        nan = V::any(odd);
        return peaks;
    }

    template <int dtype>
    static float largest(const void* from, int64_t count) {
        bool nan;
        return peaks<dtype>(from, count, nan).highest();
    }

    template <int dtype>
    static F load_one(const void* from, int64_t i) {
        if constexpr (dtype == FE_FP32) return V::load(static_cast<const float*>(from) + i);
        const uint16_t* half = static_cast<const uint16_t*>(from) + i;
        if constexpr (dtype == FE_BF16) return V::load_bf16(half);
        return V::load_fp16(half);
    }

    template <int dtype>
    static int64_t first(const void* from, int64_t count, float value) {
        const F wanted = V::set(value);
        int64_t i = 0;
        for (; i + V::kWidth <= count; i += V::kWidth) {
            const unsigned bits = V::equal_bits(load_one<dtype>(from, i), wanted);
            if (bits) return i + __builtin_ctz(bits);
        }
        while (logit_at(from, dtype, i) != value) ++i;
        return i;
    }

    // 2^(x * scale - reference). Far below the reference everything counts 2^-125: nothing, beside
    // what the maximum counts.
    struct Exponential {
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
    static constexpr double kFar = 1 << 21;  // beyond, `shifted` has no room for a fraction

    static float power(float x, float scale, double reference) {
        if (std::fabs(reference) > kFar || x <= exponential_floor(scale, reference))
            return float(std::exp2(x * double(scale) - reference));
        const Exponential exponential(scale, reference);
        float lanes[V::kWidth];
        V::store(lanes, exponential(exponential.clamp(V::set(x))));
        return lanes[0];
    }

    static float exponential_floor(float scale, double reference) {
        return float((reference - 125.0) / scale);
    }

    template <int dtype, bool entropy>
    static void add_exponentials(const void* from, int64_t count, float scale, RowState& state) {
        if (std::fabs(state.reference) > kFar) {
            for (int64_t i = 0; i < count; ++i) {
                const double t = std::fmax(logit_at(from, dtype, i) * double(scale) - state.reference,
                                           -1000.0);
                state.sum += float(std::exp2(t));
                state.weighted += float(t * std::exp2(t));
            }
            return;
        }
        Sums<entropy> sums(scale, state.reference);
        steps<dtype, true>(from, count, [&](const F* x) { sums.add(x); });
        sums.into(state, sums.added());
    }

    // Of exponentials, and for the entropy of these times their exponents.
    template <bool entropy>
    struct Sums {
        const Exponential exponential;
        F sum[kUnroll], weighted[kUnroll];

        Sums(float scale, double reference) : exponential(scale, reference) {
            for (int u = 0; u < kUnroll; ++u) sum[u] = weighted[u] = V::set(0.0f);
        }

        void add(const F* x) {
            for (int u = 0; u < kUnroll; ++u) {
                const F held = exponential.clamp(x[u]), e = exponential(held);
                sum[u] = V::add(sum[u], e);
                if constexpr (entropy) {
                    const F t = V::fms(held, exponential.scale, exponential.reference);
                    weighted[u] = V::fma(t, e, weighted[u]);
                }
            }
        }

        float added() const { return total(sum); }

        void into(RowState& state, float added) const {
            state.sum += added;
            if constexpr (entropy) state.weighted += total(weighted);
        }
    };

    // The whole of a tile in one go; false, with nothing done, where it has to be read twice.
    template <int dtype, bool entropy>
    static bool add_at_once(const void* from, int64_t count, const void* row,
                            const fe_logits& logits, int64_t begin, float scale, RowState& state,
                            Ranking* ranking) {
        double reference = state.reference;
        if (reference == -kInf) {  // that of the first logits is near enough, if they are finite
            if constexpr (entropy) return false;
            const float guess = largest<dtype>(from, std::min(kStep, count));
            reference = std::rint(guess * double(scale));
        }
        if (!(std::fabs(reference) <= kFar)) return false;
        Peaks peaks;
        Sums<entropy> sums(scale, reference);
        steps<dtype, true>(from, count, [&](const F* x) {
            peaks.see(x);
            sums.add(x);
        });
        const float most = peaks.highest(), added = sums.added();
        if (!(added == added && most * double(scale) - reference <= kRoom)) return false;
        if (entropy && std::rint(most * double(scale)) > reference) {
            add_tile<dtype, true>(from, count, peaks, row, logits, begin, scale, state, ranking);
            return true;
        }
        choose<dtype>(from, count, most, row, logits, begin, state);
        rank<dtype>(from, count, peaks, logits, begin, ranking);
        if (most == -kInf) return true;
        state.reference = reference;
        sums.into(state, added);
        state.include(most, scale);
        return true;
    }
    static constexpr double kRoom = 60;  // exponents above the reference that a sum has room for

    static float total(const F* parts) {
        float lanes[V::kWidth], sum = 0.0f;
        V::store(lanes, V::add(V::add(parts[0], parts[1]), V::add(parts[2], parts[3])));
        for (float lane : lanes) sum += lane;
        return sum;
    }

    // The best id of the tile at id `begin` of `row`, whose largest logit is `top`. Where the first
    // id that has it may not be chosen, the tile is searched again without such ids.
    template <int dtype>
    static void choose(const void* from, int64_t count, float top, const void* row,
                       const fe_logits& logits, int64_t begin, RowState& state) {
        if (!(top > state.best)) return;
        int64_t place = first<dtype>(from, count, top);
        if (forbidden(logits, begin + place)) {
            float allowed[kTile];
            allowed_logits(row, logits, begin, count, allowed);
            top = largest<FE_FP32>(allowed, count);
            if (!(top > state.best)) return;
            place = first<FE_FP32>(allowed, count, top);
        }
        state.best = top;
        state.index = begin + place;
    }

    // Enters the ids of the tile. Few are offered, as so many lanes have a peak no lower than some
    // floor that what lies below it cannot enter; they are found from the first-level cache.
    template <int dtype>
    static void rank(const void* from, int64_t count, const Peaks& peaks, const fe_logits& logits,
                     int64_t begin, Ranking* ranking) {
        if (!ranking || !(peaks.highest() > ranking->least())) return;
        const float floor = peaks.at_least(ranking->wanted + logits.forbid_count);
        const auto offer = [&](int64_t i) {
            const float x = logit_at(from, dtype, i);
            if (x > ranking->least() && !forbidden(logits, begin + i)) ranking->enter(x, begin + i);
        };
        const auto may_enter = [&](F x) {
            const float least = ranking->least();
            if (least >= floor) return V::above_bits(x, V::set(least));
            return ~V::above_bits(V::set(floor), x) & ((1u << V::kWidth) - 1);
        };
        F x[kUnroll];
        const int64_t whole = count - count % kStep;
        for (int64_t at = 0; at < whole; at += kStep) {
            load<dtype>(from, at, x);
            if (!may_enter(most_of(x))) continue;
            for (int64_t i = at; i < at + kStep; i += V::kWidth)
                for (unsigned bits = may_enter(load_one<dtype>(from, i)); bits; bits &= bits - 1)
                    offer(i + __builtin_ctz(bits));
        }
        for (int64_t i = whole; i < count; ++i) offer(i);
    }

    template <int dtype, bool entropy>
    static void add_tile(const void* from, int64_t count, const Peaks& peaks, const void* row,
                         const fe_logits& logits, int64_t begin, float scale, RowState& state,
                         Ranking* ranking) {
        const float top = peaks.highest();
        choose<dtype>(from, count, top, row, logits, begin, state);
        rank<dtype>(from, count, peaks, logits, begin, ranking);
        if (top == -kInf) return;
        state.include(top, scale);
        add_exponentials<dtype, entropy>(from, count, scale, state);
    }

    template <int dtype, bool entropy>
    static RowState read_as(const void* row, const fe_logits& logits, int64_t begin, int64_t end,
                            float scale, Ranking* ranking) {
        RowState state;
        float clean[kTile];
        for (int64_t at = begin; at < end; at += kTile) {
            const int64_t count = std::min(kTile, end - at);
            const void* from = static_cast<const char*>(row) + at * element_size(dtype);
            if (add_at_once<dtype, entropy>(from, count, row, logits, at, scale, state, ranking))
                continue;
            bool nan;
            const Peaks seen = peaks<dtype>(from, count, nan);
            if (!nan && seen.highest() < kInf) {
                add_tile<dtype, entropy>(from, count, seen, row, logits, at, scale, state, ranking);
                continue;
            }
            state.bad = true;
            for (int64_t i = 0; i < count; ++i) clean[i] = finite(logit_at(from, dtype, i));
            const Peaks held = peaks<FE_FP32>(clean, count, nan);
            add_tile<FE_FP32, entropy>(clean, count, held, row, logits, at, scale, state, ranking);
        }
        return state;
    }

    template <bool entropy>
    static RowState read_with(const void* row, const fe_logits& logits, int64_t begin, int64_t end,
                              float scale, Ranking* ranking) {
        switch (logits.dtype) {
            case FE_FP32: return read_as<FE_FP32, entropy>(row, logits, begin, end, scale, ranking);
            case FE_BF16: return read_as<FE_BF16, entropy>(row, logits, begin, end, scale, ranking);
            default: return read_as<FE_FP16, entropy>(row, logits, begin, end, scale, ranking);
        }
    }

    static RowState read(const void* row, const fe_logits& logits, int64_t begin, int64_t end,
                         float scale, bool entropy, Ranking* ranking) {
        return entropy ? read_with<true>(row, logits, begin, end, scale, ranking)
                       : read_with<false>(row, logits, begin, end, scale, ranking);
    }

    template <int dtype>
    static void weigh_as(const void* from, int64_t count, float max, float temperature, float* z,
                         float* out) {
        const Exponential exponential(kLog2e, 0.0);
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
            weigh_one(load_one<dtype>(from, i), z + i, out + i);
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

    static void weigh(const void* row, const fe_logits& logits, int64_t begin, int64_t count,
                      float max, float temperature, float* z, float* out) {
        const void* from = static_cast<const char*>(row) + begin * element_size(logits.dtype);
        switch (logits.dtype) {
            case FE_FP32: weigh_as<FE_FP32>(from, count, max, temperature, z, out); break;
            case FE_BF16: weigh_as<FE_BF16>(from, count, max, temperature, z, out); break;
            default: weigh_as<FE_FP16>(from, count, max, temperature, z, out);
        }
        for (int64_t f = 0; f < logits.forbid_count; ++f) {
            const int64_t place = logits.forbid[f] - begin;
            if (place >= 0 && place < count) z[place] = -kInf, out[place] = 0.0f;
        }
    }

    static void masses(const float* weight, int64_t chunks, double* out) {
        for (int64_t chunk = 0; chunk < chunks; ++chunk, weight += kChunk) {
            double parts[16] = {};  // in turn, since one addition waits for the last
            for (int64_t i = 0; i < kChunk; i += 16)
                for (int k = 0; k < 16; ++k) parts[k] += weight[i + k];
            for (int k = 0; k < 8; ++k) parts[k] += parts[k + 8];
            for (int k = 0; k < 4; ++k) parts[k] += parts[k + 4];
            out[chunk] = (parts[0] + parts[2]) + (parts[1] + parts[3]);
        }
    }

    static int64_t between(const float* from, int64_t count, float least, float highest, int32_t* out) {
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
};

}  // namespace
}  // namespace fastedit
