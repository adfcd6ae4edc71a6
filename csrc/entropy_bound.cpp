// DiffusionGemma's decision: the operations that its rule is made of, in one call.
// Contract: fastedit/ops/entropy_bound.
#include <algorithm>
#include <vector>

#include "fastedit.h"

namespace {

// Whether `block` is as both conditions want it. other: its best ids are not those of the step before;
// total: the entropies of its `count` positions.
bool settled(const fe_entropy_bound_args& args, int64_t block, bool other, float total, int64_t count) {
    args.stable[block] = other ? 0 : args.stable[block] + 1;
    return args.stable[block] >= args.stability[block] && total / float(count) < args.confidence[block];
}

}  // namespace

int32_t fe_entropy_bound_step(const fe_entropy_bound_args* step, int32_t threads) {
    const fe_entropy_bound_args& args = *step;
    const int64_t blocks = args.blocks, length = args.length, rows = blocks * length;
    const auto ids = [](int64_t count) { return std::vector<int64_t>(size_t(count)); };
    const auto numbers = [](int64_t count) { return std::vector<float>(size_t(count)); };
    const auto flags = [](int64_t count) { return std::vector<uint8_t>(size_t(count)); };
    std::vector<int64_t> position = ids(rows), forward = ids(blocks), behind = ids(blocks);
    std::vector<float> heat = numbers(blocks);
    for (int64_t b = 0; b < blocks; ++b) {
        const float left = float(args.steps[b] - args.counts[b]), range = args.t_max[b] - args.t_min[b];
        heat[size_t(b)] = args.t_min[b] + range * left / float(args.steps[b]);
        forward[size_t(b)] = args.counts[b];
        behind[size_t(b)] = args.counts[b] + 1;
        for (int64_t i = 0; i < length; ++i) position[size_t(b * length + i)] = args.start[b] + i;
    }
    const fe_integers seeds{args.seed, 1, 0}, positions{position.data(), length, 1};

    std::vector<int64_t> token = ids(rows), sample = ids(rows);
    std::vector<float> entropy = numbers(rows), unused = numbers(rows);
    std::vector<uint8_t> bad = flags(rows);
    fe_row_stats_args stats{};
    stats.logits = args.logits;
    stats.rows = rows;
    stats.length = length;
    stats.current = args.ids;
    stats.temperature = 1.0;
    stats.temperatures = {heat.data(), 1, 0};
    stats.token = token.data();
    stats.prob = stats.prob_current = stats.lse = unused.data();
    stats.entropy = entropy.data();
    stats.bad = bad.data();
    stats.draws = {seeds, positions, {forward.data(), 1, 0}, {args.top_k, 1, 0}, {args.top_p, 1, 0},
                   args.draws, sample.data(), unused.data()};
    if (const int32_t status = fe_row_stats(&stats, threads)) return status;

    std::vector<uint8_t> taken = flags(rows);
    std::vector<float> total = numbers(blocks);
    const fe_within_budget_args budget{blocks, length, entropy.data(), args.may, args.bound,
                                       taken.data(), total.data()};
    fe_within_budget(&budget);

    std::vector<int64_t> wanted = ids(rows);
    const fe_random_ids_args noise{seeds, positions, {behind.data(), 1, 0}, blocks, length, args.noise,
                                   args.logits.vocab, args.mask_token_id, wanted.data()};
    fe_random_ids(&noise);

    std::vector<uint8_t> finished = flags(blocks);
    for (int64_t b = 0; b < blocks; ++b) {
        if (args.flags[b]) continue;  // done
        int64_t count = 0;
        bool other = false;
        for (int64_t i = b * length; i < (b + 1) * length; ++i) {
            count += args.may[i];
            other |= args.may[i] && token[size_t(i)] != args.best[i];
            args.best[i] = token[size_t(i)];
            if (taken[size_t(i)]) wanted[size_t(i)] = sample[size_t(i)];
        }
        const bool over = settled(args, b, other, total[size_t(b)], count);
        if (over) std::copy(args.best + b * length, args.best + (b + 1) * length, wanted.data() + b * length);
        // A block of which nothing may change has no mean, and nothing to wait for.
        finished[size_t(b)] = over || behind[size_t(b)] >= args.steps[b] || count == 0;
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
    return fe_write_blocks(&write);
}
