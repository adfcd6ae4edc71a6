// Labels of models that delete and insert, from drafts and their targets; pairs in parallel.
// Contract: fastedit/ops/edit_labels/__init__.py.
#include <algorithm>
#include <atomic>
#include <new>
#include <numeric>
#include <vector>

#include "fastedit.h"
#include "parallel.h"

namespace fastedit {
namespace {

constexpr int64_t kUnlabelled = -100;
// Ids of all drafts: 1 ms of work or more on one thread. A second one that has to wait for a core,
// beside a busy process, may cost several.
constexpr int64_t kWorthwhile = 32768;
constexpr int64_t kPiecesPerThread = 8;  // so that one with long pairs is not waited for
constexpr int kWord = 64;

struct Text {
    const int64_t* ids;
    int64_t size;
    int64_t operator[](int64_t i) const { return ids[i]; }
};

// `Labeller`s label pair after pair, and keep their tables from one to the next. Returns the status
// of the call: an exception must not leave a thread, or the library.
template <class Labeller, class Args>
int32_t label_pairs(const Args& args, int64_t pairs, int64_t ids, int threads) {
    if (ids < kWorthwhile) threads = 1;
    const int64_t pieces = std::min(pairs, threads == 1 ? 1 : threads * kPiecesPerThread);
    std::atomic<bool> no_memory{false};
    parallel_for(pieces, threads, [&](int64_t piece) {
        Labeller labeller{args};
        const int64_t end = (piece + 1) * pairs / pieces;
        try {
            for (int64_t pair = piece * pairs / pieces; pair < end; ++pair) labeller.label(pair);
        } catch (const std::bad_alloc&) {
            no_memory = true;
        }
    });
    return no_memory ? FE_NO_MEMORY : 0;
}

// Distances of all beginnings of x and y as bits (H. Hyyro, "A bit-vector algorithm for computing
// Levenshtein and Damerau edit distances", 2003). Neighbours in the table of distances differ by at
// most 1, so that two bits say what a trace needs; a column of 64 rows is one word.
class Distances {
  public:
    void compute(Text x, Text y) {
        words_ = (x.size + kWord - 1) / kWord;
        find_tokens(x);
        // Differences along the column on the left: at first each row is 1 above the one before.
        rises_.assign(size_t(words_), ~uint64_t(0));
        falls_.assign(size_t(words_), 0);
        same_.resize(size_t(y.size * words_));
        deletes_.resize(size_t(y.size * words_));
        for (int64_t j = 0; j < y.size; ++j) add_column(j, matches_of(y[j]));
    }

    // Of the first i + 1 tokens of x and j + 1 of y: the distance is that of i and j,
    bool same(int64_t i, int64_t j) const { return bit(same_, i, j); }
    // or 1 above that of i and j + 1.
    bool deletes(int64_t i, int64_t j) const { return bit(deletes_, i, j); }

  private:
    int64_t words_ = 0;
    std::vector<int64_t> order_, tokens_;        // places of x by token; its different tokens
    std::vector<uint64_t> matches_;              // [tokens + 1, words]: where x holds each; nowhere
    std::vector<uint64_t> rises_, falls_;        // [words]
    std::vector<uint64_t> same_, deletes_;       // [columns, words]

    bool bit(const std::vector<uint64_t>& table, int64_t i, int64_t j) const {
        return table[size_t(j * words_ + i / kWord)] >> (i % kWord) & 1;
    }

    void find_tokens(Text x) {
        order_.resize(size_t(x.size));
        std::iota(order_.begin(), order_.end(), int64_t(0));
        std::sort(order_.begin(), order_.end(), [&](int64_t a, int64_t b) { return x[a] < x[b]; });
        tokens_.clear();
        for (int64_t i : order_)
            if (tokens_.empty() || tokens_.back() != x[i]) tokens_.push_back(x[i]);
        matches_.assign((tokens_.size() + 1) * size_t(words_), 0);
        size_t token = 0;
        for (int64_t i : order_) {
            token += tokens_[token] != x[i];
            matches_[token * size_t(words_) + size_t(i / kWord)] |= uint64_t(1) << (i % kWord);
        }
    }

    const uint64_t* matches_of(int64_t token) const {
        auto found = std::lower_bound(tokens_.begin(), tokens_.end(), token);
        if (found != tokens_.end() && *found != token) found = tokens_.end();
        return matches_.data() + (found - tokens_.begin()) * words_;
    }

    void add_column(int64_t j, const uint64_t* matches) {
        uint64_t carry = 0, rise_in = 1, fall_in = 0;  // row 0 rises by 1 from column to column
        for (int64_t w = 0; w < words_; ++w) {
            const uint64_t rises = rises_[size_t(w)], falls = falls_[size_t(w)];
            uint64_t sum;
            const bool first = __builtin_add_overflow(matches[w] & rises, rises, &sum);
            const bool second = __builtin_add_overflow(sum, carry, &sum);
            carry = first || second;
            const uint64_t same = (sum ^ rises) | matches[w] | falls;
            const uint64_t right_rises = falls | ~(same | rises), right_falls = same & rises;
            const uint64_t rise = right_rises << 1 | rise_in, fall = right_falls << 1 | fall_in;
            rise_in = right_rises >> (kWord - 1);
            fall_in = right_falls >> (kWord - 1);
            rises_[size_t(w)] = fall | ~(same | rise);
            falls_[size_t(w)] = same & rise;
            same_[size_t(j * words_ + w)] = same;
            deletes_[size_t(j * words_ + w)] = rises_[size_t(w)];
        }
    }
};

struct LevenshteinLabeller {
    const fe_levenshtein_labels_args& args;
    Distances distances{};
    std::vector<int64_t> missing{};  // per gap the place in y of the first missing token, or kNone

    static constexpr int64_t kNone = -1;

    void label(int64_t pair) {
        const int64_t x_at = args.noisy_cu[pair], y_at = args.clean_cu[pair];
        const Text x{args.noisy + x_at, args.noisy_cu[pair + 1] - x_at};
        const Text y{args.clean + y_at, args.clean_cu[pair + 1] - y_at};
        int64_t* current = args.current + x_at;
        trace(x, y, current);
        slide(x.size, y, current);
        label_gaps(x.size, y, current, args.next + x_at + pair);
    }

    void trace(Text x, Text y, int64_t* current) {
        distances.compute(x, y);
        missing.assign(size_t(x.size + 1), kNone);
        int64_t i = x.size, j = y.size;
        while (i || j) {
            if (i && j && (x[i - 1] == y[j - 1] || !distances.same(i - 1, j - 1))) {
                --i, --j;
                current[i] = y[j];
            } else if (i && (!j || distances.deletes(i - 1, j - 1))) {
                current[--i] = args.delete_token_id;
            } else {
                missing[size_t(i)] = --j;
            }
        }
    }

    void slide(int64_t gaps, Text y, const int64_t* current) {
        for (int64_t gap = args.first_gap; gap < gaps; ++gap) {
            int64_t &here = missing[size_t(gap)], &after = missing[size_t(gap + 1)];
            if (here == kNone || y[here] != current[gap]) continue;
            std::swap(here, after);
            if (!args.exchange) here = kNone;
        }
    }

    void label_gaps(int64_t size, Text y, const int64_t* current, int64_t* next) const {
        int64_t kept = args.eos_token_id;
        for (int64_t gap = size; gap >= 0; --gap) {
            const bool inside = gap < size;
            if (inside && current[gap] != args.delete_token_id) kept = current[gap];
            const int64_t here = missing[size_t(gap)];
            const bool behind_deleted =
                inside && gap > 0 && current[gap - 1] == args.delete_token_id;
            if (here != kNone)
                next[gap] = y[here];
            else
                next[gap] = behind_deleted && !args.label_after_delete ? kUnlabelled : kept;
        }
    }
};

struct Match {
    int64_t at, to;  // places in x and in y
    bool equal;      // or the token of x is a mask
};

struct LcsLabeller {
    const fe_lcs_labels_args& args;
    std::vector<int64_t> below{};   // best sums of matches, of x from i + 1 on and y from each j on
    std::vector<uint8_t> moves{};   // [m, n], how a walk from the left goes on
    std::vector<Match> matches{};
    std::vector<int64_t> latest{};

    enum : uint8_t { kMatch = 0, kPassDraft = 1, kPassTarget = 2 };

    void label(int64_t block) {
        const Text x{args.draft + block * args.draft_length, args.draft_len[block]};
        const Text y{args.target + block * args.target_length, args.target_len[block]};
        int64_t* labels = args.labels + block * args.draft_length;
        plan(x, y);
        walk(x, y);
        move_wildcards(y.size);
        write(x.size, y, labels);
        std::fill(labels + x.size, labels + args.draft_length, kUnlabelled);
    }

    void plan(Text x, Text y) {
        const int64_t each = x.size + 1;  // above the equality of all matches
        below.assign(size_t(y.size + 1), 0);
        moves.resize(size_t(x.size * y.size));
        for (int64_t i = x.size - 1; i >= 0; --i) {
            const int64_t token = x[i];
            const int64_t mask = args.wildcard && token == args.mask_token_id ? each : 0;
            uint8_t* row = moves.data() + i * y.size;
            int64_t diagonal = 0, right = 0;  // sums at (i + 1, j + 1) and (i, j + 1)
            for (int64_t j = y.size - 1; j >= 0; --j) {
                const int64_t down = below[size_t(j)], worth = token == y[j] ? each + 1 : mask;
                const int64_t match = worth ? diagonal + worth : -1;
                const int64_t pass = std::max(down, right), best = std::max(match, pass);
                // Sums, not branches: they could not be predicted.
                row[j] = uint8_t((match < pass) + ((match < pass) & (down < right)));
                diagonal = down;
                below[size_t(j)] = right = best;
            }
        }
    }

    void walk(Text x, Text y) {
        matches.clear();
        for (int64_t i = 0, j = 0; i < x.size && j < y.size;) {
            const uint8_t move = moves[size_t(i * y.size + j)];
            if (move == kMatch) matches.push_back({i, j, x[i] == y[j]});
            i += move != kPassTarget;
            j += move != kPassDraft;
        }
    }

    void move_wildcards(int64_t n) {
        latest.resize(matches.size());
        int64_t last = n, earliest = 0;
        for (size_t c = matches.size(); c-- > 0;)
            latest[c] = last = matches[c].equal ? matches[c].to : last - 1;
        for (size_t c = 0; c < matches.size(); ++c) {
            Match& match = matches[c];
            if (!match.equal) match.to = std::min(std::max(match.at, earliest), latest[c]);
            earliest = match.to + 1;
        }
    }

    void write(int64_t m, Text y, int64_t* labels) const {
        std::fill(labels, labels + m, args.delete_token_id);
        int64_t i = 0, j = 0;
        for (const Match& anchor : matches) {
            const int64_t of_draft = anchor.at - i, of_target = anchor.to - j;
            std::copy_n(y.ids + j, std::min(of_draft, of_target), labels + i);
            labels[anchor.at] = of_target > of_draft ? args.insert_token_id : y[anchor.to];
            i = anchor.at + 1;
            j = anchor.to + 1;
        }
    }
};

}  // namespace
}  // namespace fastedit

int32_t fe_levenshtein_labels(const fe_levenshtein_labels_args* args, int32_t threads) {
    const int64_t ids = args->noisy_cu[args->pairs];
    return fastedit::label_pairs<fastedit::LevenshteinLabeller>(*args, args->pairs, ids, threads);
}

int32_t fe_lcs_labels(const fe_lcs_labels_args* args, int32_t threads) {
    const int64_t ids = args->blocks * args->draft_length;
    return fastedit::label_pairs<fastedit::LcsLabeller>(*args, args->blocks, ids, threads);
}
