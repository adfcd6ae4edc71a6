// DiffusionGemma's decision: the operations that its rule is made of, in one call.
// Contract: fastedit/ops/entropy_bound.
#include <algorithm>

#include "parallel.h"
#include "rows.h"
#include "sampling.h"
#include "step.h"

using namespace fastedit;

namespace {

// Whether `block` is as both conditions want it. other: its best ids are not those of the step before;
// total: the entropies of its `count` positions.
bool settled(const fe_entropy_bound_args& args, int64_t block, bool other, float total, int64_t count) {
    args.stable[block] = other ? 0 : args.stable[block] + 1;
    return args.stable[block] >= args.stability[block] && total / float(count) < args.confidence[block];
}

// Draws the ids of `rows`, which have been read, into `sample`. Draws are keyed by place, so that those
// of the other rows, which nobody would look at, change nothing here.
void draw_rows(const fe_entropy_bound_args& args, const BlockStep& step, const std::vector<int64_t>& rows,
               const std::vector<float>& heat, std::vector<int64_t>& sample, int threads) {
    const fe_logits& logits = args.logits;
    const int64_t count = int64_t(rows.size()), piece = std::clamp<int64_t>(65536 / logits.vocab, 1, 16);
    parallel_for((count + piece - 1) / piece, useful_threads(count * logits.vocab, threads), [&](int64_t part) {
        for (int64_t i = part * piece; i < std::min((part + 1) * piece, count); ++i) {
            const int64_t r = rows[size_t(i)], b = r / step.length, place = r % step.length;
            const int64_t token = step.token[size_t(r)];
            const void* row = row_at(logits, b, place);
            // Where no id may be chosen, `token` is what the position holds.
            const bool chosen = token >= 0 && token < logits.vocab && !forbidden(logits, token);
            const float best = chosen ? finite(logit_at(row, logits.dtype, token)) : -kInf;
            const float number = uniform(uint64_t(args.seed[b]), args.start[b] + place, args.blocks.counts[b], args.draws);
            sample[size_t(r)] = best == -kInf ? token
                : draw(row, logits, best, held_temperature(heat[size_t(b)]), args.top_k[b], args.top_p[b], number).token;
        }
    });
}

}  // namespace

int32_t fe_entropy_bound_step(const fe_entropy_bound_args* given, int32_t threads) {
    const fe_entropy_bound_args& args = *given;
    BlockStep step(args.logits, args.blocks);
    const int64_t length = step.length;
    auto position = values<int64_t>(step.rows);
    auto behind = values<int64_t>(step.count);
    auto heat = values<float>(step.count);
    for (int64_t b = 0; b < step.count; ++b) {
        const int32_t taken = args.blocks.counts[b];
        const float left = float(args.steps[b] - taken), range = args.t_max[b] - args.t_min[b];
        heat[size_t(b)] = args.t_min[b] + range * left / float(args.steps[b]);
        behind[size_t(b)] = taken + 1;
        for (int64_t i = 0; i < length; ++i) position[size_t(b * length + i)] = args.start[b] + i;
    }
    const fe_integers seeds{args.seed, 1, 0}, positions{position.data(), length, 1};

    auto entropy = values<float>(step.rows);
    step.stats.temperatures = {heat.data(), 1, 0};
    step.stats.entropy = entropy.data();
    if (const int32_t status = step.read(threads)) return status;

    auto taken = values<uint8_t>(step.rows);
    auto total = values<float>(step.count);
    const fe_within_budget_args budget{step.count, length, entropy.data(), args.blocks.may, args.bound,
                                       taken.data(), total.data()};
    fe_within_budget(&budget);

    auto sample = values<int64_t>(step.rows);
    std::vector<int64_t> drawn;
    for (int64_t r = 0; r < step.rows; ++r)
        if (taken[size_t(r)] && !args.blocks.flags[r / length]) drawn.push_back(r);
    draw_rows(args, step, drawn, heat, sample, threads);

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
