// Drafts of a model and their corruption. Contract: fastedit/ops/draft_and_corrupt.
#include <algorithm>

#include "parallel.h"
#include "rows.h"
#include "sampling.h"

namespace fastedit {
namespace {

constexpr int64_t kUnlabelled = -100;
enum : uint8_t { kKeep = 0, kMask = 1, kEdit = 2, kRandom = 4 };
enum : int64_t { kMasks = 0, kMasksAndRandom = 1, kResponse = 2 };  // regions of the loss

struct Drafts {
    const fe_draft_args& args;
    int threads;

    void run() const {
        std::vector<Place> drafted;  // no other row is read
        std::vector<float> uniforms;
        for (int64_t r = 0; r < args.rows; ++r) {
            const Words words = words_of(r);
            args.z[r] = args.xt[r];
            args.p_draft[r] = 0.0f;
            args.bad[r] = 0;
            const uint8_t kind = kind_of(r, words);
            args.kinds[r] = kind;
            args.labels[r] = labelled(r, kind) ? args.x0[r] : kUnlabelled;
            if (kind == (kEdit | kRandom)) args.z[r] = random_other(args.x0[r], words[3]);
            if (kind == kEdit) drafted.push_back({0, r}), uniforms.push_back(unit(words[0]));
        }
        write(drafted, uniforms);
    }

    Words words_of(int64_t r) const {
        const uint64_t example = uint64_t(args.example[r]);
        const uint32_t high = uint32_t(args.epoch) << 16 | uint32_t(example >> 32 & 0xFFFF);
        return philox(uint64_t(args.seed), uint32_t(example), uint32_t(args.position[r]), high,
                      uint32_t(args.turn) << 8 | kDraft);
    }

    bool was_mask(int64_t r) const { return args.eligible[r] && args.xt[r] == args.mask_token_id; }

    uint8_t kind_of(int64_t r, const Words& words) const {
        const bool mask = was_mask(r);
        if (mask && words[1] < args.mask_below) return kMask;
        const int64_t random_below = mask ? args.drafted_below : args.visible_below;
        if (args.eligible[r] && words[2] < random_below) return kEdit | kRandom;
        return mask ? kEdit : kKeep;
    }

    bool labelled(int64_t r, uint8_t kind) const {
        if (args.region == kResponse) return args.eligible[r];
        return was_mask(r) || (args.region == kMasksAndRandom && (kind & kRandom));
    }

    // A place among the ids that are neither x0 nor forbidden, moved past each that is left out.
    int64_t random_other(int64_t x0, uint32_t word) const {
        const fe_logits& logits = args.logits;
        const int64_t *begin = logits.forbid, *end = begin + logits.forbid_count;
        const int64_t* above = std::lower_bound(begin, end, x0);
        const bool allowed = x0 >= 0 && x0 < logits.vocab && (above == end || *above != x0);
        const int64_t others = logits.vocab - logits.forbid_count - allowed;
        int64_t id = int64_t(uint64_t(word) * uint64_t(others) >> 32);
        if (allowed && id >= x0 - (above - begin)) ++id;
        for (const int64_t* token = begin; token < end; ++token) id += id >= *token;
        return id;
    }

    void write(const std::vector<Place>& drafted, const std::vector<float>& uniforms) const {
        const auto states = read_rows(args.logits, drafted, Reading{}, threads);
        const int64_t count = int64_t(drafted.size());
        const bool draws = args.temperature > 0.0f;
        const int used = draws ? useful_threads(count * args.logits.vocab, threads) : 1;
        parallel_for(count, used, [&](int64_t d) {
            const RowState& state = states[size_t(d)];
            const int64_t r = drafted[size_t(d)].place;
            const bool exists = state.best > -kInf;
            args.bad[r] = state.bad || !exists;
            if (!exists) {
                args.kinds[r] = kMask;
                return;
            }
            Draw draft{state.index, 0.0f};
            if (draws)
                draft = draw(row_at(args.logits, 0, r), args.logits, state.best, args.temperature,
                             0, 1.0f, uniforms[size_t(d)]);
            else
                draft.prob = probability(state, state.best, kLog2e);
            args.z[r] = draft.token;
            args.p_draft[r] = draft.prob;
        });
        *args.n_err = std::count_if(drafted.begin(), drafted.end(), [&](Place at) {
            return args.kinds[at.place] == kEdit && args.z[at.place] != args.x0[at.place];
        });
    }
};

}  // namespace
}  // namespace fastedit

int32_t fe_draft_and_corrupt(const fe_draft_args* args, int32_t threads) {
    if (!fastedit::servable(args->logits)) return -1;
    fastedit::Drafts{*args, threads}.run();
    return 0;
}
