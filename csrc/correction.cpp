// Filling by a clock and taking back what the model doubts: the operations that the rule is made of, in
// one call. Contract: fastedit/ops/correction.
#include <algorithm>
#include <vector>

#include "fastedit.h"

namespace {

// How many of `masks` a step fills, so that they last as long as the time that is `left` behind it.
int64_t share(int64_t masks, int64_t left, int64_t steps) {
    return masks - (2 * left + steps) / (2 * steps);
}

}  // namespace

int32_t fe_correction_step(const fe_correction_args* step, int32_t threads) {
    const fe_correction_args& args = *step;
    const int64_t blocks = args.blocks, length = args.length, rows = blocks * length;
    const auto ids = [](int64_t count) { return std::vector<int64_t>(size_t(count)); };
    const auto numbers = [&] { return std::vector<float>(size_t(rows)); };
    const auto flags = [&] { return std::vector<uint8_t>(size_t(rows)); };

    std::vector<int64_t> token = ids(rows);
    std::vector<float> prob = numbers(), error = numbers(), unused = numbers();
    std::vector<uint8_t> bad = flags();
    fe_row_stats_args stats{};
    stats.logits = args.logits;
    stats.rows = rows;
    stats.length = length;
    stats.current = args.ids;
    stats.temperature = 1.0;
    stats.token = token.data();
    stats.prob = prob.data();
    stats.prob_current = error.data();
    stats.lse = unused.data();
    stats.bad = bad.data();
    if (const int32_t status = fe_row_stats(&stats, threads)) return status;
    for (float& e : error) e = 1.0f - e;

    std::vector<uint8_t> masked = flags(), tokens = flags();
    std::vector<int64_t> masks = ids(blocks), held = ids(blocks);
    const fe_contents_args contents{blocks, length, args.ids, args.may, args.mask_token_id,
                                    masked.data(), tokens.data(), masks.data(), held.data()};
    fe_contents(&contents);

    std::vector<int64_t> fills = ids(blocks), most = ids(blocks);
    std::vector<int32_t> turns(static_cast<size_t>(blocks));
    std::vector<uint8_t> finished(static_cast<size_t>(blocks)), wrong = flags();
    for (int64_t b = 0; b < blocks; ++b) {
        const size_t at = size_t(b);
        const int32_t* turn = args.turn + b * length;
        const int64_t count = masks[at] + held[at], forward = args.counts[b];
        const int64_t steps = args.steps[b] > 0 ? args.steps[b] : std::max<int64_t>(count, 1);
        const int64_t filled = args.counts[b + args.count_stride];
        const int64_t left =
            std::max<int64_t>(steps * (masks[at] + filled) - count * forward - count, 0);
        fills[at] = share(masks[at], left, steps);
        finished[at] = left == 0;
        most[at] = forward % args.stride[b] == 0 && left > 0 ? args.budget[b] : 0;
        turns[at] = length ? std::max(*std::max_element(turn, turn + length) + 1, 0) : 0;
        for (int64_t i = 0; i < length; ++i)
            wrong[size_t(b * length + i)] = tokens[size_t(b * length + i)] &&
                                            error[size_t(b * length + i)] > args.tau[b] &&
                                            turn[i] < turns[at] - args.ring[b];
    }
    std::vector<uint8_t> fill = flags(), remask = flags();
    const fe_highest_args filling{blocks, length, prob.data(), prob.data(), masked.data(), fills.data(),
                                  nullptr, 8, 0, 0, fill.data()};
    fe_highest(&filling);
    const fe_highest_args doubting{blocks, length, error.data(), error.data(), wrong.data(), most.data(),
                                   nullptr, 8, 0, 0, remask.data()};
    fe_highest(&doubting);

    std::vector<int64_t> wanted(args.ids, args.ids + rows);
    for (int64_t b = 0; b < blocks; ++b) {
        int32_t turn = turns[size_t(b)];
        for (int64_t i = b * length; i < (b + 1) * length; ++i) {
            if (fill[size_t(i)]) wanted[size_t(i)] = token[size_t(i)];
            if (!remask[size_t(i)]) continue;
            wanted[size_t(i)] = args.mask_token_id;
            if (!args.flags[b]) args.turn[i] = turn++;
        }
    }
    fe_write_blocks_args write{};
    write.blocks = blocks;
    write.length = length;
    write.ids = args.ids;
    write.wanted = wanted.data();
    write.may = args.may;
    write.bad = bad.data();
    write.finished = finished.data();
    write.flags = args.flags;
    write.flag_stride = args.flag_stride;
    write.counts = args.counts;
    write.count_stride = args.count_stride;
    write.mask_token_id = args.mask_token_id;
    write.judges_tokens = 1;
    write.limit = args.limit;
    write.fallback = token.data();
    return fe_write_blocks(&write);
}
