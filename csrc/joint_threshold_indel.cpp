// LLaDA2.2's step on a batch of blocks. Contract: fastedit/ops/joint_threshold_indel/__init__.py.
#include <algorithm>
#include <vector>

#include "rows.h"

namespace fastedit {
namespace {

struct Candidate {
    int64_t row = -1;    // among those that were read
    int64_t token = -1;  // the best id
    float prob = 0.0f;
    bool bad = false;
    int64_t other = -1;  // the best that is not the mask, where a mask that was there at first would
    float other_prob = 0.0f;  // be filled by one
    int64_t text = -1;  // the best that stands for itself, where `token` does not
};

// A token on its way to its new place; `source` is where it stood, -1 for a new mask.
struct Emitted {
    int64_t token, source;
};

// The rows of a step, as they were read.
struct Rows {
    const fe_logits& logits;
    std::vector<Place> places;
    int64_t splits = 0;
    std::vector<RowState> parts{};  // `splits` of each row

    void read(int threads) {
        splits = parts_of_row(logits);
        parts = read_parts(logits, places, Reading{}, threads);
    }

    // With the best id that is none of `ids`. Parts whose best is one of them are read once more.
    RowState state(size_t row, const std::vector<int64_t>& ids = {}) const {
        fe_logits others = logits;
        others.forbid = ids.data();
        others.forbid_count = int64_t(ids.size());
        RowState whole;
        for (int64_t split = 0; split < splits; ++split) {
            RowState part = parts[row * size_t(splits) + size_t(split)];
            if (part.best > -kInf && forbidden(others, part.index)) {
                const int64_t begin = split * kSplit;
                part = row_reader().read(row_at(logits, places[row].block, places[row].place), others,
                                         begin, std::min(begin + kSplit, logits.vocab),
                                         float(kLog2e), false, nullptr);
            }
            whole.merge(part);
        }
        return whole;
    }
};

// One block and its decision; every number is of a place in it.
struct Decision {
    const fe_indel_args& args;
    const int64_t block;
    const std::vector<Candidate>& candidates;
    const Rows& rows;

    int64_t at(int64_t i) const { return block * args.length + i; }
    int64_t id(int64_t i) const { return args.ids[at(i)]; }
    bool free(int64_t i) const { return args.editable[at(i)]; }
    bool masked(int64_t i) const { return free(i) && id(i) == args.mask_token_id; }
    bool first(int64_t i) const { return masked(i) && args.original[at(i)]; }
    bool acts(int64_t token) const {
        return token == args.delete_token_id || token == args.insert_token_id;
    }
    int64_t* plane(int64_t* history, int64_t forward) const {
        return history + (block * args.history + forward) * args.length;
    }

    void run() {
        const int64_t length = args.length;
        if (args.forwards[block] == 0)
            for (int64_t i = 0; i < length; ++i) args.original[at(i)] = masked(i);
        int64_t masks = 0, firsts = 0;
        for (int64_t i = 0; i < length; ++i) masks += masked(i), firsts += first(i);
        args.post_steps[block] += firsts == 0;
        final = args.forwards[block] >= length + args.max_post_steps;
        final |= args.max_post_steps > 0 ? args.post_steps[block] >= args.max_post_steps : firsts == 0;
        choose();
        write.assign(size_t(length), false);
        for (int64_t i : fills(masks, firsts)) write[size_t(i)] = true;
        for (int64_t i = 0; i < length; ++i)
            if (free(i) && !masked(i) && candidates[size_t(i)].row >= 0 && token[size_t(i)] != id(i) &&
                prob[size_t(i)] > args.editing_threshold[block])
                write[size_t(i)] = true;
        if (final)
            write_text();
        else
            leave_loop();
        remember();
        apply();
    }

    // Candidates; a mask that the block began with is not filled by a mask, unless it is the end.
    void choose() {
        token.assign(size_t(args.length), -1);
        prob.assign(size_t(args.length), 0.0f);
        for (int64_t i = 0; i < args.length; ++i) {
            const Candidate& c = candidates[size_t(i)];
            const bool other = !final && c.other >= 0;
            token[size_t(i)] = other ? c.other : c.token;
            prob[size_t(i)] = other ? c.other_prob : c.prob;
        }
    }

    std::vector<int64_t> fills(int64_t masks, int64_t firsts) {
        std::vector<int64_t> all, above;
        for (int64_t i = 0; i < args.length; ++i) {
            if (!masked(i)) continue;
            all.push_back(i);
            if (prob[size_t(i)] > args.threshold[block]) above.push_back(i);
        }
        if (final || firsts == 0) return all;
        const int64_t need = 1 + masks - firsts;
        if (int64_t(above.size()) < need) {
            above = all;
            std::stable_sort(above.begin(), above.end(), [&](int64_t a, int64_t b) {
                return prob[size_t(a)] > prob[size_t(b)];
            });
            above.resize(size_t(std::min(need, masks)));
        }
        if (args.max_post_steps == 0) {
            int64_t left = firsts;
            for (int64_t i : above) left -= first(i);
            final = left == 0;
        }
        return final ? all : above;
    }

    void write_text() {
        for (int64_t i = 0; i < args.length; ++i) {
            if (token[size_t(i)] != args.mask_token_id && !acts(token[size_t(i)])) continue;
            const int64_t text = candidates[size_t(i)].text;
            token[size_t(i)] = text >= 0 ? text : id(i);
        }
    }

    // A block that was seen before: the least sure change becomes one that was never written there.
    void leave_loop() {
        const int64_t* now = args.ids + at(0);
        int64_t least = -1;
        for (int64_t i = 0; i < args.length; ++i)
            if (write[size_t(i)] && token[size_t(i)] != id(i) &&
                (least < 0 || prob[size_t(i)] < prob[size_t(least)]))
                least = i;
        if (least < 0) return;
        const int64_t taken = std::min<int64_t>(args.forwards[block], args.history);
        bool again = false;
        std::vector<int64_t> banned;
        for (int64_t f = 0; f < taken; ++f) {
            again |= std::equal(now, now + args.length, plane(args.seen, f));
            banned.push_back(plane(args.written, f)[least]);
        }
        if (!again) return;
        if (first(least)) banned.push_back(args.mask_token_id);
        const RowState state = rows.state(size_t(candidates[size_t(least)].row), banned);
        if (state.best > -kInf) token[size_t(least)] = state.index;
    }

    void remember() const {
        if (args.forwards[block] >= args.history) return;
        int64_t* seen = plane(args.seen, args.forwards[block]);
        int64_t* written = plane(args.written, args.forwards[block]);
        for (int64_t i = 0; i < args.length; ++i) {
            seen[i] = id(i);
            written[i] = write[size_t(i)] ? token[size_t(i)] : -1;
        }
    }

    // Writes and counts, then lets DELETE and INSERT act, within what stands between fixed places.
    void apply() const {
        const int64_t length = args.length, mask = args.mask_token_id;
        bool any = false, act = false, dirty = false, left = false;
        for (int64_t i = 0; i < length; ++i)
            if (write[size_t(i)]) any = true, act |= acts(token[size_t(i)]);
        std::vector<Emitted> out;
        std::vector<uint8_t> original(args.original + at(0), args.original + at(length));
        int32_t commits = 0, edits = 0, remasks = 0, inserts = 0, deletes = 0;
        const auto end_run = [&](int64_t end) { out.resize(size_t(end), {mask, -1}); };
        for (int64_t i = 0; i < length; ++i) {
            const int64_t old = id(i), now = write[size_t(i)] ? token[size_t(i)] : old;
            const bool drop = act && free(i) && now == args.delete_token_id;
            const bool put = act && free(i) && now == args.insert_token_id;
            args.deleted[at(i)] = drop, args.inserted[at(i)] = put;
            deletes += drop, inserts += put;
            if (!free(i)) {
                end_run(i);
                out.push_back({old, i});
                continue;
            }
            args.bad[block] |= candidates[size_t(i)].bad;
            if (drop) continue;
            if (put) out.push_back({mask, -1});
            const int64_t kept = put ? old : now;
            out.push_back({kept, i});
            if (kept == old) continue;
            dirty = true;
            ++(old == mask ? commits : kept == mask ? remasks : edits);
        }
        end_run(length);
        for (int64_t i = 0; i < length; ++i) {
            const Emitted& e = out[size_t(i)];
            dirty |= e.token != id(i);
            left |= free(i) && e.token == mask;
        }
        for (int64_t i = 0; i < length; ++i) {
            const Emitted& e = out[size_t(i)];
            args.ids[at(i)] = e.token;
            args.source[at(i)] = e.source;
            args.original[at(i)] = e.source >= 0 && original[size_t(e.source)];
        }
        int32_t* counts[] = {args.forwards, args.m2t_commits, args.t2t_edits,
                             args.remasks,  args.inserts,     args.deletes};
        const int32_t more[] = {1, commits, edits, remasks, inserts, deletes};
        for (int k = 0; k < 6; ++k) counts[k][block] += more[k];
        args.dirty[block] = dirty;
        args.done[block] = (final || !any) && !left;
    }

    bool final = false;
    std::vector<int64_t> token{};
    std::vector<float> prob{};
    std::vector<bool> write{};
};

Candidate candidate(const fe_indel_args& args, const Rows& rows, size_t row) {
    const int64_t mask = args.mask_token_id;
    const Place place = rows.places[row];
    const int64_t at = place.block * args.length + place.place;
    const RowState state = rows.state(row);
    const bool exists = state.best > -kInf;
    Candidate c;
    c.row = int64_t(row);
    c.bad = state.bad || !exists;
    c.token = exists ? state.index : args.ids[at];
    c.prob = exists ? probability(state, state.best, kLog2e) : 0.0f;
    if (c.token != mask && c.token != args.delete_token_id && c.token != args.insert_token_id)
        return c;
    const RowState text = rows.state(row, {mask, args.delete_token_id, args.insert_token_id});
    if (text.best > -kInf)
        c.text = text.index;
    else
        c.bad = true;
    const bool began = args.forwards[place.block] == 0 || args.original[at];
    if (c.token != mask || args.ids[at] != mask || !began) return c;
    const RowState other = rows.state(row, {mask});
    if (other.best > -kInf) {
        c.other = other.index;
        c.other_prob = probability(other, other.best, kLog2e);
    }
    return c;
}

void step(const fe_indel_args& args, int threads) {
    Rows rows{args.logits, {}};  // those that could change: no other is read
    std::vector<int64_t> active;
    for (int64_t block = 0; block < args.blocks; ++block) {
        if (args.done[block]) {
            for (int64_t i = 0; i < args.length; ++i) {
                const int64_t at = block * args.length + i;
                args.source[at] = i;
                args.inserted[at] = args.deleted[at] = 0;
            }
            continue;
        }
        active.push_back(block);
        const bool edits = args.editing_threshold[block] < kInf;
        for (int64_t i = 0; i < args.length; ++i) {
            const int64_t at = block * args.length + i;
            if (args.editable[at] && (edits || args.ids[at] == args.mask_token_id))
                rows.places.push_back({block, i});
        }
    }
    rows.read(threads);
    size_t next = 0;
    for (int64_t block : active) {
        std::vector<Candidate> candidates(size_t(args.length), Candidate{});
        for (; next < rows.places.size() && rows.places[next].block == block; ++next)
            candidates[size_t(rows.places[next].place)] = candidate(args, rows, next);
        Decision{args, block, candidates, rows}.run();
    }
}

}  // namespace
}  // namespace fastedit

int32_t fe_joint_threshold_indel_step(const fe_indel_args* args, int32_t threads) {
    if (!fastedit::servable(args->logits)) return -1;
    fastedit::step(*args, threads);
    return 0;
}
