// What a rule decided about a batch of blocks: choosing positions by score, and writing with counts.
// Contracts: fastedit/ops/highest/__init__.py and fastedit/ops/write_blocks/__init__.py.
#include <algorithm>
#include <numeric>
#include <vector>

#include "fastedit.h"

namespace {

int64_t count_of(const fe_highest_args& args, int64_t block) {
    if (args.count_size == 4) return static_cast<const int32_t*>(args.count)[block];
    return static_cast<const int64_t*>(args.count)[block];
}

}  // namespace

int32_t fe_highest(const fe_highest_args* args) {
    std::vector<int64_t> order;
    for (int64_t block = 0; block < args->blocks; ++block) {
        const int64_t at = block * args->length, count = count_of(*args, block);
        const float* score = args->score + at;
        const uint8_t* among = args->among + at;
        uint8_t* out = args->out + at;
        if (args->unless) {
            const uint8_t* unless = args->unless + at;
            if (std::count_if(unless, unless + args->length, [](uint8_t c) { return c; }) >= count) {
                std::copy(unless, unless + args->length, out);
                continue;
            }
        }
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

int32_t fe_write_blocks(const fe_write_blocks_args* args) {
    const int64_t blocks = args->blocks, length = args->length, mask = args->mask_token_id;
    for (int64_t block = 0; block < blocks; ++block) {
        uint8_t* done = args->flags + block;
        if (*done) continue;
        uint8_t* dirty = done + args->flag_stride;
        uint8_t* bad = dirty + args->flag_stride;
        int32_t commits = 0, edits = 0, remasks = 0;
        bool mask_left = false, wrong = false;
        for (int64_t i = block * length; i < (block + 1) * length; ++i) {
            if (!args->may[i]) continue;
            const int64_t old = args->ids[i], now = args->wanted[i];
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
        *done = args->finished[block] && !mask_left;
        int32_t* count = args->counts + block;
        for (int32_t more : {1, commits, edits, remasks}) {
            *count += more;
            count += args->count_stride;
        }
    }
    return 0;
}
