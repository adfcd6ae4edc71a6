// Filling by a threshold and masking again what the model has come to doubt: the operations that the rule
// is made of, in one call. Contract: fastedit/ops/remask.
#include <cmath>

#include "step.h"

using namespace fastedit;

namespace {

// Whether the trigger would remask the token in `row` of `block`; `score`: how much it doubts it.
bool doubted(const fe_remask_args& args, const BlockStep& step, int64_t block, size_t row, float& score) {
    const float tau = args.tau[block], prob = step.prob[row], current = step.prob_current[row];
    switch (args.trigger) {
    case FE_LOW_PROB:
        score = -current;
        return current < tau;
    case FE_T2T:
        score = prob;
        return prob > tau && step.token[row] != args.blocks.ids[row];
    default:
        score = args.before[row] - current;
        return score > tau && args.before[row] >= 0.0f;
    }
}

}  // namespace

int32_t fe_remask_step(const fe_remask_args* given, int32_t threads) {
    const fe_remask_args& args = *given;
    BlockStep step(args.logits, args.blocks);
    if (const int32_t status = step.read(threads)) return status;
    step.look();
    const int64_t length = step.length;

    auto score = values<float>(step.rows);
    auto doubts = values<uint8_t>(step.rows);
    auto most = values<int64_t>(step.count);  // 0: all post steps are spent
    for (int64_t b = 0; b < step.count; ++b) {
        const size_t at = size_t(b);
        const bool spent = step.masks[at] == 0 && args.post_steps[b] >= args.max_post_steps[b];
        most[at] = spent ? 0 : int64_t(std::fmax(double(step.held[at]) * args.share[b], 1.0));
        for (size_t i = size_t(b * length); i < size_t((b + 1) * length); ++i)
            doubts[i] = doubted(args, step, b, i, score[i]) && step.tokens[i] && args.remasked[i] < args.cap[b];
    }
    const auto remask = step.highest(score, doubts, most.data());
    const auto fill = step.highest(step.prob, step.masked, args.num_to_transfer, args.threshold);

    for (int64_t b = 0; b < step.count; ++b) {
        if (args.blocks.flags[b]) continue;  // done
        const bool had_mask = step.masks[size_t(b)] > 0, had_token = step.held[size_t(b)] > 0;
        args.post_steps[b] += !had_mask && most[size_t(b)] > 0;
        step.finished[size_t(b)] = !had_mask || args.post_steps[b] >= args.max_post_steps[b];
        for (size_t i = size_t(b * length); i < size_t((b + 1) * length); ++i) {
            if (fill[i]) step.wanted[i] = step.token[i];
            if (remask[i]) step.wanted[i] = args.blocks.mask_token_id;
            args.remasked[i] = had_token ? args.remasked[i] + remask[i] : 0;
            if (!args.before) continue;
            args.before[i] = !had_token ? -1.0f : fill[i] ? step.prob[i] : step.prob_current[i];
        }
    }
    return step.write();
}
