// Statistics of rows. Contracts: fastedit/ops/row_stats and fastedit/ops/row_partials.
#include <algorithm>

#include "parallel.h"
#include "rows.h"
#include "sampling.h"

namespace fastedit {
namespace {

// The rows of blocks of `length` rows, one block after the other.
std::vector<Place> all_rows(int64_t count, int64_t length) {
    std::vector<Place> rows(size_t(count), Place{0, 0});
    for (int64_t r = 0; r < count; ++r) rows[size_t(r)] = {r / length, r % length};
    return rows;
}

struct Statistics {
    const fe_row_stats_args& args;
    int threads;

    template <class Numbers>
    auto of_row(const Numbers& numbers, int64_t row) const {
        return at(numbers, row / args.length, row % args.length);
    }

    // One for all is used as it is given; one of a row is held to its range.
    double temperature(int64_t row) const {
        if (!args.temperatures.data) return args.temperature;
        return held_temperature(of_row(args.temperatures, row));
    }
    double scale(int64_t row) const { return kLog2e / temperature(row); }

    void run() const {
        const std::vector<int64_t> rows = wanted();
        const int64_t count = int64_t(rows.size());
        const int used = useful_threads(count * args.logits.vocab, threads);
        // A row that is drawn from is read again: at once, while it is in the cache. A piece is as much
        // as makes handing it out worthwhile.
        const bool at_once = args.draws.seed.data && count > 1;
        const int64_t piece = at_once ? std::clamp<int64_t>(65536 / args.logits.vocab, 1, 16)
                                      : std::max<int64_t>(count, 1);
        parallel_for((count + piece - 1) / piece, at_once ? used : 1, [&](int64_t i) {
            const auto first = rows.begin() + i * piece, end = rows.begin() + std::min((i + 1) * piece, count);
            read_and_write({first, end}, at_once ? 1 : used);
        });
    }

    void read_and_write(const std::vector<int64_t>& rows, int used) const {
        const int64_t count = int64_t(rows.size());
        std::vector<Place> places(rows.size(), Place{0, 0});
        for (size_t i = 0; i < rows.size(); ++i) places[i] = {rows[i] / args.length, rows[i] % args.length};
        Reading reading{float(kLog2e / args.temperature), nullptr, args.entropy != nullptr, args.top_k};
        std::vector<float> scales(args.temperatures.data ? rows.size() : 0);
        for (size_t i = 0; i < scales.size(); ++i) scales[i] = float(scale(rows[i]));
        if (args.temperatures.data) reading.scales = scales.data();
        std::vector<Ranking> rankings;
        const auto states = read_rows(args.logits, places, reading, used, &rankings);
        // A row takes 100 ns here, more with ranks, and handing out a piece as much.
        constexpr int64_t kPiece = 16;
        parallel_for((count + kPiece - 1) / kPiece, used, [&](int64_t piece) {
            for (int64_t i = piece * kPiece; i < std::min((piece + 1) * kPiece, count); ++i) {
                const int64_t r = rows[size_t(i)];
                const RowState& state = states[size_t(i)];
                write(r, state);
                if (args.top_k) write_ranks(r, state, rankings[size_t(i)]);
                if (args.draws.seed.data) write_draw(r, state.best);
            }
        });
    }

    // The rows to read; the others get what there is to say of a row without logits.
    std::vector<int64_t> wanted() const {
        std::vector<int64_t> rows;
        rows.reserve(size_t(args.rows));
        for (int64_t r = 0; r < args.rows; ++r) {
            if (!args.only || args.current[r] == *args.only) {
                rows.push_back(r);
                continue;
            }
            args.token[r] = args.current[r];
            args.prob[r] = args.prob_current[r] = 0.0f;
            args.lse[r] = -kInf;
            if (args.entropy) args.entropy[r] = 0.0f;
            args.bad[r] = 0;
            std::fill_n(args.top_tokens + r * args.top_k, args.top_k, -1);
            std::fill_n(args.top_probs + r * args.top_k, args.top_k, 0.0f);
            if (args.draws.seed.data) {
                args.draws.token[r] = args.current[r];
                args.draws.prob[r] = 0.0f;
            }
        }
        return rows;
    }

    void write(int64_t r, const RowState& state) const {
        const fe_logits& logits = args.logits;
        const int64_t current = args.current[r];
        const bool exists = state.best > -kInf, any = state.max > -kInf;
        const double log2_sum = state.reference + std::log2(double(state.sum));
        args.token[r] = exists ? state.index : current;
        args.prob[r] = exists ? probability(state, state.best, scale(r)) : 0.0f;
        args.prob_current[r] = current >= 0 && current < logits.vocab
            ? probability(state, finite(logit_at(row_at(logits, r / args.length, r % args.length), logits.dtype, current)), scale(r))
            : 0.0f;
        args.lse[r] = any ? float(std::clamp(log2_sum * kLn2, -double(kLargest), double(kLargest)))
                           : -kInf;
        if (args.entropy)
            args.entropy[r] = any
                ? float(std::max(0.0, (std::log2(double(state.sum)) - state.weighted / state.sum) * kLn2))
                : 0.0f;
        args.bad[r] = state.bad || !exists;
    }

    void write_ranks(int64_t r, const RowState& state, const Ranking& ranking) const {
        for (int64_t i = 0; i < args.top_k; ++i) {
            const bool exists = i < ranking.count;
            args.top_tokens[r * args.top_k + i] = exists ? ranking.id[i] : -1;
            args.top_probs[r * args.top_k + i] =
                exists ? probability(state, ranking.logit[i], scale(r)) : 0.0f;
        }
    }

    // `best`: largest logit that may be chosen.
    void write_draw(int64_t r, float best) const {
        const fe_row_draws& draws = args.draws;
        Draw drawn{args.current[r], 0.0f};
        if (best > -kInf)
            drawn = draw(row_at(args.logits, r / args.length, r % args.length), args.logits, best, float(temperature(r)),
                         of_row(draws.top_k, r), of_row(draws.top_p, r),
                         uniform(uint64_t(of_row(draws.seed, r)), of_row(draws.position, r),
                                 of_row(draws.forward, r), draws.purpose));
        draws.token[r] = drawn.token;
        draws.prob[r] = drawn.prob;
    }
};

}  // namespace
}  // namespace fastedit

using namespace fastedit;

int32_t fe_row_stats(const fe_row_stats_args* args, int32_t threads) {
    if (!servable(args->logits) || args->length < 1) return -1;
    if (args->top_k < 0 || args->top_k > kMostRanks) return -1;
    Statistics{*args, threads}.run();
    return 0;
}

int32_t fe_row_partials(const fe_row_partials_args* args, int32_t threads) {
    if (!servable(args->logits)) return -1;
    const auto states = read_rows(args->logits, all_rows(args->rows, std::max<int64_t>(args->rows, 1)), Reading{}, threads);
    for (int64_t r = 0; r < args->rows; ++r) {
        const RowState& state = states[size_t(r)];
        args->max[r] = state.max;
        const float one = row_reader().power(state.max, float(kLog2e), state.reference);
        args->sum[r] = state.max > -kInf ? state.sum / one : 0.0f;
        args->best[r] = state.best;
        args->token[r] = state.index;
        args->bad[r] = state.bad;
    }
    return 0;
}
