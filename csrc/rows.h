// Many rows at once: reading them in parallel splits and merging the splits in order.
#pragma once
#include <vector>

#include "row.h"

namespace fastedit {

struct Place {
    int64_t block, place;
};

// What is read of every row.
struct Reading {
    float scale = float(kLog2e);      // log2(e) / temperature, of all rows
    const float* scales = nullptr;    // or of each
    bool entropy = false;
    int64_t ranks = 0;                // how many best ids, at most kMostRanks

    float scale_of(int64_t row) const { return scales ? scales[row] : scale; }
};

// States of the parts of each of `rows`, kSplit ids long, row after row, and their rankings.
std::vector<RowState> read_parts(const fe_logits& logits, const std::vector<Place>& rows,
                                 const Reading& reading, int threads,
                                 std::vector<Ranking>* rankings = nullptr);

inline int64_t parts_of_row(const fe_logits& logits) { return (logits.vocab + kSplit - 1) / kSplit; }

// State of each of `rows`, and its ranking where one is read. Splits follow from the vocabulary
// alone, so company changes no bits.
std::vector<RowState> read_rows(const fe_logits& logits, const std::vector<Place>& rows,
                                const Reading& reading, int threads,
                                std::vector<Ranking>* rankings = nullptr);

// Threads worth starting for `elements` logits.
int useful_threads(int64_t elements, int threads);

inline bool servable(const fe_logits& logits) {
    return logits.vocab > 0 && logits.dtype >= FE_FP32 && logits.dtype <= FE_FP16;
}

}  // namespace fastedit
