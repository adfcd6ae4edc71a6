// Draws for rows with a temperature, keyed by place in the text and never by place in the batch.
#pragma once
#include "row.h"

namespace fastedit {

struct Draw {
    int64_t token;
    float prob;  // after all filters
};

// `max`: largest logit that may be chosen; there is one. `uniform` in [0, 1).
Draw draw(const void* row, const fe_logits& logits, float max, float temperature, int64_t top_k,
          float top_p, float uniform);

// 24 bits of one Philox word.
float uniform(uint64_t seed, int64_t position, int64_t forward);

}  // namespace fastedit
