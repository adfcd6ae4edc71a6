// The best id of a row outside a set of its own. Contract: fastedit/ops/best_outside/__init__.py.
#include "parallel.h"
#include "rows.h"

namespace fastedit {
namespace {

// The ids that row `place` of `block` may not choose.
std::vector<int64_t> banned(const fe_best_outside_args& args, int64_t block, int64_t place) {
    const fe_logits& logits = args.logits;
    std::vector<int64_t> ids(logits.forbid, logits.forbid + logits.forbid_count);
    const int64_t* list = args.excluded.data + block * args.excluded.block_stride +
                          place * args.excluded.row_stride;
    for (int64_t i = 0; i < args.width; ++i) {
        const int64_t id = list[i * args.id_stride];
        if (id >= 0 && id < logits.vocab) ids.push_back(id);
    }
    return ids;
}

void read(const fe_best_outside_args& args, int64_t row, int threads) {
    const Place place{row / args.length, row % args.length};
    const std::vector<int64_t> ids = banned(args, place.block, place.place);
    fe_logits logits = args.logits;
    logits.forbid = ids.data();
    logits.forbid_count = int64_t(ids.size());
    const RowState state = read_rows(logits, {place}, Reading{}, threads).front();
    if (state.best == -kInf) return;
    args.token[row] = state.index;
    args.prob[row] = probability(state, state.best, kLog2e);
}

}  // namespace
}  // namespace fastedit

using namespace fastedit;

int32_t fe_best_outside(const fe_best_outside_args* args, int32_t threads) {
    if (!servable(args->logits) || args->length < 1) return -1;
    std::vector<int64_t> rows;
    for (int64_t row = 0; row < args->rows; ++row) {
        args->token[row] = -1;
        args->prob[row] = 0.0f;
        if (!args->only || args->only[row]) rows.push_back(row);
    }
    const int64_t count = int64_t(rows.size());
    const int used = useful_threads(count * args->logits.vocab, threads);
    // One row is shared out by its splits, several as they are; that changes no bits.
    parallel_for(count, used, [&](int64_t i) { read(*args, rows[size_t(i)], count > 1 ? 1 : used); });
    return 0;
}
