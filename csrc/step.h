// What the steps share that are made of the operations: rows read, blocks looked at, ids written.
#pragma once
#include <cstddef>
#include <vector>

#include "fastedit.h"

namespace fastedit {

template <class Value>
std::vector<Value> values(int64_t count) {
    return std::vector<Value>(static_cast<size_t>(count));
}

// One decision on blocks. What `read` is to do more than it says is set in `stats` before.
struct BlockStep {
    const fe_blocks& blocks;
    const int64_t count = blocks.blocks, length = blocks.length, rows = count * length;

    // Of every row, by `read`.
    std::vector<int64_t> token = values<int64_t>(rows);
    std::vector<float> prob = values<float>(rows), prob_current = prob, lse = prob;
    std::vector<uint8_t> bad = values<uint8_t>(rows);
    // Per position and per block, by `look`.
    std::vector<uint8_t> masked = bad, tokens = bad;
    std::vector<int64_t> masks = values<int64_t>(count), held = masks;
    // What `write` is to write: what the blocks hold, until the step changes it.
    std::vector<int64_t> wanted{blocks.ids, blocks.ids + rows};
    std::vector<uint8_t> finished = values<uint8_t>(count);

    fe_row_stats_args stats{};

    BlockStep(const fe_logits& logits, const fe_blocks& of) : blocks(of) {
        stats.logits = logits;
        stats.rows = rows;
        stats.length = length;
        stats.current = blocks.ids;
        stats.temperature = 1.0;
        stats.token = token.data();
        stats.prob = prob.data();
        stats.prob_current = prob_current.data();
        stats.lse = lse.data();
        stats.bad = bad.data();
    }
    BlockStep(const BlockStep&) = delete;  // `stats` has addresses of its own vectors

    int32_t read(int32_t threads) const { return fe_row_stats(&stats, threads); }

    void look() {
        const fe_contents_args args{count, length, blocks.ids, blocks.may, blocks.mask_token_id,
                                    masked.data(), tokens.data(), masks.data(), held.data()};
        fe_contents(&args);
    }

    // The `most` positions of each block with the highest scores, or all that are `above`.
    template <class Count>
    std::vector<uint8_t> highest(const std::vector<float>& score, const std::vector<uint8_t>& among,
                                 const Count* most, const float* above = nullptr) const {
        std::vector<uint8_t> out = values<uint8_t>(rows);
        const fe_highest_args args{count, length, score.data(), score.data(), among.data(), most,
                                   above, sizeof(Count), sizeof(float), 0, out.data()};
        fe_highest(&args);
        return out;
    }

    // limit: as of fe_write_blocks, where masks become the best ids. A row that has nothing to choose
    // from keeps what it holds: that is its best id, with a probability of 0.
    int32_t write(const int32_t* limit = nullptr) {
        for (size_t i = 0; i < size_t(rows); ++i)
            if (bad[i] && token[i] == blocks.ids[i] && !(prob[i] > 0.0f)) wanted[i] = token[i];
        fe_write_blocks_args args{};
        args.blocks = count;
        args.length = length;
        args.ids = blocks.ids;
        args.wanted = wanted.data();
        args.may = blocks.may;
        args.bad = bad.data();
        args.finished = finished.data();
        args.flags = blocks.flags;
        args.flag_stride = blocks.flag_stride;
        args.counts = blocks.counts;
        args.count_stride = blocks.count_stride;
        args.mask_token_id = blocks.mask_token_id;
        args.judges_tokens = 1;
        args.limit = limit;
        args.fallback = token.data();
        return fe_write_blocks(&args);
    }
};

}  // namespace fastedit
