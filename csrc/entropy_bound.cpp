// DiffusionGemma's decision: the operations that its rule is made of, in one call.
// Contract: fastedit/ops/entropy_bound.
#include <algorithm>

#include "step.h"

using namespace fastedit;

namespace {

// Whether `block` is as both conditions want it. other: its best ids are not those of the step before;
// total: the entropies of its `count` positions.
bool settled(const fe_entropy_bound_args& args, int64_t block, bool other, float total, int64_t count) {
    args.stable[block] = other ? 0 : args.stable[block] + 1;
    return args.stable[block] >= args.stability[block] && total / float(count) < args.confidence[block];
}

}  // namespace

int32_t fe_entropy_bound_step(const fe_entropy_bound_args* given, int32_t threads) {
    const fe_entropy_bound_args& args = *given;
    BlockStep step(args.logits, args.blocks);
    const int64_t length = step.length;
    auto position = values<int64_t>(step.rows);
    auto forward = values<int64_t>(step.count), behind = forward;
    auto heat = values<float>(step.count);
    for (int64_t b = 0; b < step.count; ++b) {
        const int32_t taken = args.blocks.counts[b];
        const float left = float(args.steps[b] - taken), range = args.t_max[b] - args.t_min[b];
        heat[size_t(b)] = args.t_min[b] + range * left / float(args.steps[b]);
        forward[size_t(b)] = taken;
        behind[size_t(b)] = taken + 1;
        for (int64_t i = 0; i < length; ++i) position[size_t(b * length + i)] = args.start[b] + i;
    }
    const fe_integers seeds{args.seed, 1, 0}, positions{position.data(), length, 1};

    auto sample = values<int64_t>(step.rows);
    auto entropy = values<float>(step.rows), unused = entropy;
    step.stats.temperatures = {heat.data(), 1, 0};
    step.stats.entropy = entropy.data();
    step.stats.draws = {seeds, positions, {forward.data(), 1, 0}, {args.top_k, 1, 0}, {args.top_p, 1, 0},
                        args.draws, sample.data(), unused.data()};
    if (const int32_t status = step.read(threads)) return status;

    auto taken = values<uint8_t>(step.rows);
    auto total = values<float>(step.count);
    const fe_within_budget_args budget{step.count, length, entropy.data(), args.blocks.may, args.bound,
                                       taken.data(), total.data()};
    fe_within_budget(&budget);

    std::vector<int64_t>& wanted = step.wanted;
    const fe_random_ids_args noise{seeds, positions, {behind.data(), 1, 0}, step.count, length, args.noise,
                                   args.logits.vocab, args.blocks.mask_token_id, wanted.data()};
    fe_random_ids(&noise);

    for (int64_t b = 0; b < step.count; ++b) {
        if (args.blocks.flags[b]) continue;  // done
        int64_t count = 0;
        bool other = false;
        for (int64_t i = b * length; i < (b + 1) * length; ++i) {
            const int64_t token = step.token[size_t(i)];
            count += args.blocks.may[i];
            other |= args.blocks.may[i] && token != args.best[i];
            args.best[i] = token;
            if (taken[size_t(i)]) wanted[size_t(i)] = sample[size_t(i)];
        }
        const bool over = settled(args, b, other, total[size_t(b)], count);
        if (over) std::copy(args.best + b * length, args.best + (b + 1) * length, wanted.data() + b * length);
        // A block of which nothing may change has no mean, and nothing to wait for.
        step.finished[size_t(b)] = over || behind[size_t(b)] >= args.steps[b] || count == 0;
    }
    return step.write();
}
