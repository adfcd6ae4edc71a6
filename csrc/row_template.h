// Reading a row, written once for every instruction set.
//
// A tile is read once, for its maximum and for the sums of exponentials, which are taken against the
// reference of the tiles before it. Where that does not serve, it is read twice: for its maximum, which
// comes from memory, and for the sums, which come from the first-level cache. With entropy, whose bits
// depend on the reference, the sums are taken again where a tile raises it.
#pragma once
#include <algorithm>

#include "exponential.h"
#include "lanes.h"

namespace fastedit {
namespace {

template <class V>
struct Reader {
    using F = typename V::F;

    // The largest logits of a tile, one per lane, without its NaNs.
    struct Peaks {
        F lane[kUnroll];

        Peaks() { for (F& l : lane) l = V::set(-kInf); }

        void see(const F* x) {
            for (int u = 0; u < kUnroll; ++u) lane[u] = V::max(x[u], lane[u]);  // not NaN of x
        }

        float highest() const {
            float lanes[V::kWidth];
            V::store(lanes, most_of<V>(lane));
            return *std::max_element(lanes, lanes + V::kWidth);
        }

        // What the `place` best logits of the tile have at least.
        float at_least(int64_t place) const {
            float lanes[kStep<V>];
            for (int u = 0; u < kUnroll; ++u) V::store(lanes + u * V::kWidth, lane[u]);
            if (place > 12) return -kInf;
            return place <= 4 ? best_of<8>(lanes, place) : best_of<16>(lanes, place);
        }

    private:
        // The `place`-th of N peaks, each of several lanes.
        template <int N>
        static float best_of(float* lanes, int64_t place) {
            for (int64_t half = kStep<V> / 2; half >= N; half /= 2)
                for (int64_t i = 0; i < half; ++i) lanes[i] = std::max(lanes[i], lanes[i + half]);
            for (int round = 0; round < N; ++round)  // odd-even sort: nothing to mispredict
                for (int i = round % 2; i + 1 < N; i += 2) {
                    const float a = lanes[i], b = lanes[i + 1];
                    lanes[i] = std::max(a, b), lanes[i + 1] = std::min(a, b);
                }
            return lanes[place - 1];
        }
    };

    // `nan`: there are some.
    template <int dtype>
    static Peaks peaks(const void* from, int64_t count, bool& nan) {
        Peaks peaks;
        typename V::M odd = V::none();
        steps<V, dtype, false>(from, count, [&](const F* x) {
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
    static int64_t first(const void* from, int64_t count, float value) {
        const F wanted = V::set(value);
        int64_t i = 0;
        for (; i + V::kWidth <= count; i += V::kWidth) {
            const unsigned bits = V::equal_bits(load_one<V, dtype>(from, i), wanted);
            if (bits) return i + __builtin_ctz(bits);
        }
        while (logit_at(from, dtype, i) != value) ++i;
        return i;
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
        steps<V, dtype, true>(from, count, [&](const F* x) { sums.add(x); });
        sums.into(state, sums.added());
    }

    // Of exponentials, and for the entropy of these times their exponents.
    template <bool entropy>
    struct Sums {
        const Exponential<V> exponential;
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

        float added() const { return total<V>(sum); }

        void into(RowState& state, float added) const {
            state.sum += added;
            if constexpr (entropy) state.weighted += total<V>(weighted);
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
            const float guess = largest<dtype>(from, std::min(kStep<V>, count));
            reference = std::rint(guess * double(scale));
        }
        if (!(std::fabs(reference) <= kFar)) return false;
        Peaks peaks;
        Sums<entropy> sums(scale, reference);
        steps<V, dtype, true>(from, count, [&](const F* x) {
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
        const int64_t whole = count - count % kStep<V>;
        for (int64_t at = 0; at < whole; at += kStep<V>) {
            load<V, dtype>(from, at, x);
            if (!may_enter(most_of<V>(x))) continue;
            for (int64_t i = at; i < at + kStep<V>; i += V::kWidth)
                for (unsigned bits = may_enter(load_one<V, dtype>(from, i)); bits; bits &= bits - 1)
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
};

}  // namespace
}  // namespace fastedit
