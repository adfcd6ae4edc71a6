// Filling by a clock and taking back what the model doubts: the operations that the rule is made of, in
// one call. Contract: fastedit/ops/correction.
#include <algorithm>

#include "step.h"

using namespace fastedit;

namespace {

// How many of `masks` a step fills, so that they last as long as the time that is `left` behind it.
int64_t share(int64_t masks, int64_t left, int64_t steps) {
    return masks - (2 * left + steps) / (2 * steps);
}

}  // namespace

int32_t fe_correction_step(const fe_correction_args* given, int32_t threads) {
    const fe_correction_args& args = *given;
    BlockStep step(args.logits, args.blocks);
    if (const int32_t status = step.read(threads)) return status;
    step.look();
    const int64_t length = step.length;
    std::vector<float> error = step.prob_current;
    for (float& e : error) e = 1.0f - e;

    auto fills = values<int64_t>(step.count), most = fills;
    auto turns = values<int32_t>(step.count);
    auto wrong = values<uint8_t>(step.rows);
    for (int64_t b = 0; b < step.count; ++b) {
        const size_t at = size_t(b);
        const int32_t* turn = args.turn + b * length;
        const int32_t* counts = args.blocks.counts + b;
        const int64_t masks = step.masks[at], count = masks + step.held[at], forward = counts[0];
        const int64_t steps = args.steps[b] > 0 ? args.steps[b] : std::max<int64_t>(count, 1);
        const int64_t filled = counts[args.blocks.count_stride];
        const int64_t left = std::max<int64_t>(steps * (masks + filled) - count * forward - count, 0);
        fills[at] = share(masks, left, steps);
        step.finished[at] = left == 0;
        most[at] = forward % args.stride[b] == 0 && left > 0 ? args.budget[b] : 0;
        turns[at] = length ? std::max(*std::max_element(turn, turn + length) + 1, 0) : 0;
        for (int64_t i = 0; i < length; ++i) {
            const size_t row = size_t(b * length + i);
            wrong[row] = step.tokens[row] && error[row] > args.tau[b] && turn[i] < turns[at] - args.ring[b];
        }
    }
    const auto fill = step.highest(step.prob, step.masked, fills.data());
    const auto remask = step.highest(error, wrong, most.data());

    for (int64_t b = 0; b < step.count; ++b) {
        int32_t turn = turns[size_t(b)];
        for (int64_t i = b * length; i < (b + 1) * length; ++i) {
            if (fill[size_t(i)]) step.wanted[size_t(i)] = step.token[size_t(i)];
            if (!remask[size_t(i)]) continue;
            step.wanted[size_t(i)] = args.blocks.mask_token_id;
            if (!args.blocks.flags[b]) args.turn[i] = turn++;
        }
    }
    return step.write(args.limit);
}
