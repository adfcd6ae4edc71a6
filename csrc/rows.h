// Many rows at once: reading them in parallel splits and merging the splits in order.
#pragma once
#include <vector>

#include "row.h"

namespace fastedit {

struct Place {
    int64_t block, place;
};

// State of each of `rows`. Splits follow from the vocabulary alone, so company changes no bits.
std::vector<RowState> read_rows(const fe_logits& logits, const std::vector<Place>& rows,
                                float scale, bool entropy, int threads);

// Threads worth starting for `elements` logits.
int useful_threads(int64_t elements, int threads);

inline bool servable(const fe_logits& logits) {
    return logits.vocab > 0 && logits.dtype >= FE_FP32 && logits.dtype <= FE_FP16;
}

}  // namespace fastedit
