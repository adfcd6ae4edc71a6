// What blocks hold, choosing positions by score, and writing what a rule decided, with counts.
// Contracts: fastedit/ops/contents, fastedit/ops/highest, fastedit/ops/within_budget, fastedit/ops/write_blocks.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "fastedit.h"

namespace {

int64_t count_of(const fe_highest_args& args, int64_t block) {
    if (args.count_size == 4) return static_cast<const int32_t*>(args.count)[block];
    return static_cast<const int64_t*>(args.count)[block];
}

double above_of(const fe_highest_args& args, int64_t block) {
    if (args.above_size == 4) return static_cast<const float*>(args.above)[block];
    return static_cast<const double*>(args.above)[block];
}

// Into `out` the positions of `block` that are judged above its threshold; how many there are.
int64_t mark_above(const fe_highest_args& args, int64_t block, uint8_t* out) {
    const int64_t at = block * args.length;
    const double above = above_of(args, block);
    int64_t count = 0;
    for (int64_t i = 0; i < args.length; ++i) {
        const double judged = args.judged[at + i];
        out[i] = args.among[at + i] && (args.inclusive ? judged >= above : judged > above);
        count += out[i];
    }
    return count;
}

// At the last forward that a block may take: whether it would go on.
bool is_over(const fe_write_blocks_args& args, int64_t block) {
    if (!args.limit || args.counts[block] + 1 < args.limit[block]) return false;
    if (!args.finished[block]) return true;
    for (int64_t i = block * args.length; i < (block + 1) * args.length; ++i)
        if (args.may[i] && args.wanted[i] == args.mask_token_id) return true;
    return false;
}

}  // namespace

int32_t fe_contents(const fe_contents_args* args) {
    for (int64_t block = 0; block < args->blocks; ++block) {
        int64_t masks = 0, held = 0;
        for (int64_t i = block * args->length; i < (block + 1) * args->length; ++i) {
            const uint8_t may = args->may[i], is_mask = args->ids[i] == args->mask_token_id;
            masks += args->masked[i] = may & is_mask;
            held += args->tokens[i] = may & !is_mask;
        }
        args->masks[block] = masks;
        args->held[block] = held;
    }
    return 0;
}

int32_t fe_highest(const fe_highest_args* args) {
    std::vector<int64_t> order;
    for (int64_t block = 0; block < args->blocks; ++block) {
        const int64_t at = block * args->length, count = count_of(*args, block);
        const float* score = args->score + at;
        const uint8_t* among = args->among + at;
        uint8_t* out = args->out + at;
        if (args->above && mark_above(*args, block, out) >= count) continue;
        std::fill(out, out + args->length, uint8_t(0));
        if (count <= 0) continue;
        order.clear();
        for (int64_t place = 0; place < args->length; ++place)
            if (among[place]) order.push_back(place);
        const int64_t wanted = std::min<int64_t>(count, int64_t(order.size()));
        // NaN would break the order; it counts as the lowest score.
        const auto better = [&](int64_t a, int64_t b) {
            if (score[a] > score[b] || score[b] > score[a]) return score[a] > score[b];
            const bool odd_a = score[a] != score[a], odd_b = score[b] != score[b];
            return odd_a != odd_b ? odd_b : a < b;
        };
        std::partial_sort(order.begin(), order.begin() + wanted, order.end(), better);
        for (int64_t i = 0; i < wanted; ++i) out[order[size_t(i)]] = 1;
    }
    return 0;
}

int32_t fe_within_budget(const fe_within_budget_args* args) {
    std::vector<int64_t> order;
    for (int64_t block = 0; block < args->blocks; ++block) {
        const float* cost = args->cost + block * args->length;
        const uint8_t* among = args->among + block * args->length;
        uint8_t* taken = args->taken + block * args->length;
        order.clear();
        for (int64_t place = 0; place < args->length; ++place) {
            taken[place] = 0;
            if (among[place] && std::isfinite(cost[place])) order.push_back(place);
        }
        std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
            return cost[a] < cost[b] || (cost[a] == cost[b] && a < b);
        });
        double sum = 0.0;
        for (int64_t place : order) {
            sum += cost[place];
            taken[place] = float(sum) - cost[place] <= args->budget[block];  // as the reference does
        }
        args->total[block] = float(sum);
    }
    return 0;
}

int32_t fe_write_blocks(const fe_write_blocks_args* args) {
    const int64_t blocks = args->blocks, length = args->length, mask = args->mask_token_id;
    int64_t size = 0;
    for (int64_t i = 0; i < args->buffer_count; ++i) size += args->buffers[i].row;
    std::vector<char> rows(static_cast<size_t>(size));
    for (int64_t block = 0; block < blocks; ++block) {
        uint8_t* done = args->flags + block;
        if (*done) continue;
        // All of them before the first is written: a rule may hand one buffer on to another.
        char* row = rows.data();
        for (int64_t i = 0; i < args->buffer_count; row += args->buffers[i++].row) {
            const fe_buffer& buffer = args->buffers[i];
            std::memcpy(row, static_cast<const char*>(buffer.now) + block * buffer.row,
                        static_cast<size_t>(buffer.row));
        }
        row = rows.data();
        for (int64_t i = 0; i < args->buffer_count; row += args->buffers[i++].row) {
            const fe_buffer& buffer = args->buffers[i];
            std::memcpy(static_cast<char*>(buffer.old) + block * buffer.row, row,
                        static_cast<size_t>(buffer.row));
        }
        uint8_t* dirty = done + args->flag_stride;
        uint8_t* bad = dirty + args->flag_stride;
        const bool over = is_over(*args, block);
        if (over) bad[args->flag_stride] = 1;  // capped
        int32_t commits = 0, edits = 0, remasks = 0;
        bool mask_left = false, wrong = false;
        for (int64_t i = block * length; i < (block + 1) * length; ++i) {
            if (!args->may[i]) continue;
            const int64_t old = args->ids[i];
            const int64_t now = !over ? args->wanted[i] : old == mask ? args->fallback[i] : old;
            if (args->bad[i] && (args->judges_tokens || old == mask)) wrong = true;
            mask_left |= now == mask;
            if (now == old) continue;
            args->ids[i] = now;
            if (old == mask)
                ++commits;
            else if (now == mask)
                ++remasks;
            else
                ++edits;
        }
        *dirty = commits || edits || remasks;
        *bad |= wrong;
        *done = (over || args->finished[block]) && !mask_left;
        int32_t* count = args->counts + block;
        for (int32_t more : {1, commits, edits, remasks}) {
            *count += more;
            count += args->count_stride;
        }
    }
    return 0;
}
