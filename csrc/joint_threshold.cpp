// The joint-threshold step on a batch of blocks. Contract: fastedit/ops/joint_threshold.
#include <algorithm>
#include <numeric>

#include "parallel.h"
#include "rows.h"
#include "sampling.h"

namespace fastedit {
namespace {

struct Candidate {
    int64_t token = -1;
    float prob = 0.0f;
    bool exists = false, bad = false;
};

struct Step {
    const fe_step_args& args;
    int threads;

    int64_t& id(int64_t block, int64_t place) const { return args.ids[block * args.length + place]; }
    bool editable(int64_t block, int64_t place) const {
        return args.editable[block * args.length + place];
    }
    bool masked(int64_t block, int64_t place) const {
        return editable(block, place) && id(block, place) == args.mask_token_id;
    }
    bool has_mask(int64_t block) const {
        for (int64_t place = 0; place < args.length; ++place)
            if (masked(block, place)) return true;
        return false;
    }

    void run() const {
        std::vector<Place> rows;  // those that could change: no other is read
        std::vector<int64_t> first(size_t(args.blocks) + 1, 0);
        for (int64_t block = 0; block < args.blocks; ++block) {
            first[size_t(block)] = int64_t(rows.size());
            if (args.done[block]) continue;
            if (!has_mask(block) && args.post_steps[block] >= args.max_post_steps[block]) {
                args.done[block] = 1;
                continue;
            }
            const bool edits = args.editing_threshold[block] < kInf;
            for (int64_t place = 0; place < args.length; ++place)
                if (editable(block, place) && (edits || masked(block, place)))
                    rows.push_back({block, place});
            active.push_back(block);
        }
        first[size_t(args.blocks)] = int64_t(rows.size());
        const auto candidates = choose(rows);
        for (int64_t block : active) {
            const auto begin = first[size_t(block)], end = first[size_t(block) + 1];
            decide(block, rows.data() + begin, candidates.data() + begin, end - begin);
        }
    }

    std::vector<Candidate> choose(const std::vector<Place>& rows) const {
        const auto states = read_rows(args.logits, rows, Reading{}, threads);
        std::vector<Candidate> out(rows.size());
        std::vector<size_t> draws;
        for (size_t r = 0; r < rows.size(); ++r) {
            const RowState& state = states[r];
            Candidate& candidate = out[r];
            candidate.exists = state.best > -kInf;
            candidate.bad = state.bad || !candidate.exists;
            if (!candidate.exists) continue;
            candidate.token = state.index;
            candidate.prob = probability(state, state.best, kLog2e);
            if (args.sampling.temperature && args.sampling.temperature[rows[r].block] > 0.0f)
                draws.push_back(r);
        }
        const int64_t work = int64_t(draws.size()) * args.logits.vocab;
        parallel_for(int64_t(draws.size()), useful_threads(work, threads), [&](int64_t d) {
            const size_t r = draws[size_t(d)];
            const auto [block, place] = rows[r];
            const fe_sampling& s = args.sampling;
            const float u = uniform(uint64_t(s.seed[block]), s.start[block] + place,
                                    args.forwards[block], kDecode);
            const Draw drawn = draw(row_at(args.logits, block, place), args.logits, states[r].best,
                                    s.temperature[block], s.top_k[block], s.top_p[block], u);
            out[r].token = drawn.token;
            out[r].prob = drawn.prob;
        });
        return out;
    }

    // `rows` and their candidates, in the order of places. Judged on the old ids throughout.
    void decide(int64_t block, const Place* rows, const Candidate* candidates, int64_t count) const {
        const float commit_above = args.threshold[block];
        const float edit_above = args.editing_threshold[block];
        std::vector<int64_t> masks, chosen;
        bool had_mask = has_mask(block), changed = false;
        int32_t edits = 0, commits = 0;
        for (int64_t r = 0; r < count; ++r) {
            const Candidate& c = candidates[r];
            args.bad[block] |= c.bad;
            if (!c.exists) continue;
            if (masked(block, rows[r].place)) {
                masks.push_back(r);
                if (c.prob > commit_above) chosen.push_back(r);
            }
        }
        const size_t wanted = size_t(std::max<int32_t>(0, args.num_to_transfer[block]));
        const size_t least = std::min(masks.size(), wanted);
        if (chosen.size() < wanted) {
            std::stable_sort(masks.begin(), masks.end(), [&](int64_t a, int64_t b) {
                return candidates[a].prob > candidates[b].prob;
            });
            chosen.assign(masks.begin(), masks.begin() + int64_t(least));
        }
        for (int64_t r = 0; r < count; ++r) {
            int64_t& now = id(block, rows[r].place);
            const Candidate& c = candidates[r];
            const bool edit = c.exists && now != args.mask_token_id && c.prob > edit_above;
            if (!edit || c.token == now) continue;
            // An edit may write the mask (strict_reference); the commits below hold rows apart.
            now = c.token;
            ++edits, changed = true;
        }
        for (int64_t r : chosen) {
            const Candidate& c = candidates[r];
            if (c.token == args.mask_token_id) continue;
            id(block, rows[r].place) = c.token;
            ++commits, changed = true;
        }
        args.post_steps[block] += !had_mask;
        args.forwards[block] += 1;
        args.m2t_commits[block] += commits;
        args.t2t_edits[block] += edits;
        args.dirty[block] = changed;
        const bool spent = args.post_steps[block] >= args.max_post_steps[block];
        args.done[block] = (!had_mask && !changed) || (spent && !has_mask(block));
    }

    mutable std::vector<int64_t> active{};
};

}  // namespace
}  // namespace fastedit

int32_t fe_joint_threshold_step(const fe_step_args* args, int32_t threads) {
    if (!fastedit::servable(args->logits)) return -1;
    fastedit::Step{*args, threads}.run();
    return 0;
}
