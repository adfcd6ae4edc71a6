/* C ABI of the CPU back end. Plain pointers and sizes: one library serves every torch version.
 *
 * Contracts: the folders of fastedit/ops.
 * Shapes and strides are in elements; rows of logits are contiguous over the vocabulary. Every
 * function returns 0, or -1 for an argument it cannot serve (unknown dtype, empty vocabulary), or
 * FE_NO_MEMORY where tables that grow with the texts do not fit.
 * Nothing is kept between calls.
 */
#pragma once
#include <stdint.h>

#define FASTEDIT_ABI 10

#pragma GCC visibility push(default)
#ifdef __cplusplus
extern "C" {
#endif

enum { FE_NO_MEMORY = -2 };
enum { FE_FP32 = 0, FE_BF16 = 1, FE_FP16 = 2 };

/* logits[b, i] starts at data + b * block_stride + i * row_stride. */
typedef struct {
    const void* data;
    int64_t vocab, block_stride, row_stride;
    const int64_t* forbid; /* ids that are never chosen; ascending for fe_draft_and_corrupt */
    int64_t forbid_count;
    int64_t dtype;
} fe_logits;

/* A number for row i of block b, at data + b * block_stride + i * row_stride; NULL: none. */
typedef struct {
    const int64_t* data;
    int64_t block_stride, row_stride;
} fe_integers;

typedef struct {
    const float* data;
    int64_t block_stride, row_stride;
} fe_floats;

/* One draw per row at its temperature; no seed: none. token, prob: [rows]. */
typedef struct {
    fe_integers seed, position, forward, top_k;
    fe_floats top_p;
    int64_t purpose;
    int64_t* token;
    float* prob;
} fe_row_draws;

typedef struct {
    fe_logits logits;
    int64_t rows, length; /* of all blocks, and of each */
    const int64_t* current;
    const int64_t* only; /* rows that hold another id are not read; NULL: all are */
    double temperature;
    fe_floats temperatures; /* of the rows, in place of `temperature` */
    int64_t* token;
    float *prob, *prob_current, *lse;
    float* entropy; /* NULL: not wanted */
    uint8_t* bad;
    int64_t top_k; /* best ids that are wanted, 0 to 8 */
    int64_t* top_tokens; /* [rows, top_k], as is the next */
    float* top_probs;
    fe_row_draws draws;
} fe_row_stats_args;

/* [rows] each; `sum` of exp(logit - max), `token` -1 where none may be chosen. */
typedef struct {
    fe_logits logits;
    int64_t rows;
    float *max, *sum, *best;
    int64_t* token;
    uint8_t* bad;
} fe_row_partials_args;

/* token, prob: [rows]. Each row has a list of ids that it may not choose. */
typedef struct {
    fe_logits logits;
    int64_t rows, length; /* of all blocks, and of each */
    fe_integers excluded; /* the first id of each list, */
    int64_t width, id_stride; /* ids of a list, and how far apart; outside the vocabulary: no id */
    const uint8_t* only; /* [rows], those to read; NULL: all */
    int64_t* token;
    float* prob;
} fe_best_outside_args;

/* Per block, [blocks] each; NULL temperature: every row is greedy. */
typedef struct {
    const float* temperature;
    const int64_t* top_k;
    const float* top_p;
    const int64_t *seed, *start;
} fe_sampling;

typedef struct {
    fe_logits logits;
    int64_t blocks, length;
    int64_t* ids;
    const uint8_t* editable;
    int64_t mask_token_id;
    const float *threshold, *editing_threshold;
    const int32_t *max_post_steps, *num_to_transfer;
    int32_t *post_steps, *forwards, *m2t_commits, *t2t_edits;
    uint8_t *done, *dirty, *bad;
    fe_sampling sampling;
} fe_step_args;

/* Per block, [blocks]: thresholds, counts and flags. Per position, [blocks, length]: the others, and
 * [blocks, history, length]: seen and written. */
typedef struct {
    fe_logits logits;
    int64_t blocks, length, history;
    int64_t* ids;
    const uint8_t* editable;
    int64_t mask_token_id, delete_token_id, insert_token_id, max_post_steps;
    const float *threshold, *editing_threshold;
    int32_t *post_steps, *forwards, *m2t_commits, *t2t_edits, *remasks, *inserts, *deletes;
    uint8_t *done, *dirty, *bad;
    uint8_t* original;
    int64_t *seen, *written;
    int64_t *source, *inserted, *deleted;
} fe_indel_args;

/* Per position, [blocks, length], but for masks and held [blocks]. */
typedef struct {
    int64_t blocks, length;
    const int64_t* ids;
    const uint8_t* may;
    int64_t mask_token_id;
    uint8_t *masked, *tokens;
    int64_t *masks, *held;
} fe_contents_args;

/* Per position, [blocks, length], but for count and above [blocks]. */
typedef struct {
    int64_t blocks, length;
    const float *score, *judged;
    const uint8_t* among;
    const void *count, *above;       /* above may be NULL: the highest in any case */
    int64_t count_size, above_size;  /* bytes of each: 4 or 8 */
    int64_t inclusive;
    uint8_t* out;
} fe_highest_args;

/* Per position, [blocks, length], but for budget and total [blocks]. */
typedef struct {
    int64_t blocks, length;
    const float* cost;
    const uint8_t* among;
    const float* budget;
    uint8_t* taken;
    float* total;
} fe_within_budget_args;

/* A buffer and its new contents, of `row` bytes per block, end to end. */
typedef struct {
    void* old;
    const void* now;
    int64_t row;
} fe_buffer;

/* Per position, [blocks, length]; `finished`, `limit`, planes of flags and counts [blocks]. */
typedef struct {
    int64_t blocks, length;
    int64_t* ids;
    const int64_t* wanted;
    const uint8_t *may, *bad, *finished;
    uint8_t* flags; /* done, dirty, bad, capped */
    int64_t flag_stride;
    int32_t* counts; /* forwards, commits, edits, remasks */
    int64_t count_stride;
    int64_t mask_token_id, judges_tokens;
    const int32_t* limit;    /* NULL: none */
    const int64_t* fallback; /* what masks become at the limit */
    int64_t buffer_count;
    fe_buffer buffers[];
} fe_write_blocks_args;

/* What a step decides on and changes, as fe_write_blocks_args has it. */
typedef struct {
    int64_t blocks, length;
    int64_t* ids;
    const uint8_t* may;
    uint8_t* flags;
    int64_t flag_stride;
    int32_t* counts;
    int64_t count_stride;
    int64_t mask_token_id;
} fe_blocks;

typedef struct {
    fe_logits logits;
    fe_blocks blocks;
    const float *bound, *t_min, *t_max, *confidence; /* [blocks], as are the next */
    const int32_t *steps, *stability;
    const int64_t *seed, *start, *top_k;
    const float* top_p;
    int64_t draws, noise; /* purposes */
    int64_t* best;   /* [blocks, length] */
    int32_t* stable; /* [blocks] */
} fe_entropy_bound_args;

typedef struct {
    fe_logits logits;
    fe_blocks blocks;
    const int32_t *steps, *stride, *budget, *ring, *limit; /* [blocks], as is the next */
    const float* tau;
    int32_t* turn; /* [blocks, length] */
} fe_correction_args;

enum { FE_LOW_PROB = 0, FE_T2T = 1, FE_LOGIT_DIFF = 2 };

typedef struct {
    fe_logits logits;
    fe_blocks blocks;
    const float *tau, *threshold; /* [blocks], as are the next */
    const double* share;
    const int32_t *cap, *max_post_steps, *num_to_transfer;
    int64_t trigger;
    int32_t* post_steps; /* [blocks] */
    int32_t* remasked;   /* [blocks, length], as is the next */
    float* before;       /* NULL but for FE_LOGIT_DIFF */
} fe_remask_args;

/* Values of positions that move with their tokens, and what places without a token hold. */
typedef struct {
    const void* from;
    void* to;
    int64_t size; /* bytes of a value: 1, 4 or 8 */
    char blank[8]; /* those of one, from the front */
} fe_plane;

/* Per position, [blocks, length], as are the planes, of which the ids are the first. */
typedef struct {
    int64_t blocks, length, planes;
    const uint8_t *keep, *insert;
    const uint8_t* fixed; /* NULL: none is */
} fe_rewrite_args;

/* Per position, [positions], as planes are before the call; afterwards they are [capacity]. The ids
 * are the first of them. */
typedef struct {
    int64_t positions, sequences, planes, capacity;
    const void* cu; /* [sequences + 1], as is cu_out */
    void* cu_out;
    int64_t cu_size; /* bytes of each: 4 or 8 */
    const uint8_t* keep;
    const int64_t* insert;
    const int64_t* room; /* [sequences]; NULL: for all */
} fe_compact_args;

/* [rows] each, but for n_err. The settings are those of `DraftOptions.settings`. */
typedef struct {
    fe_logits logits; /* rows of one block */
    int64_t rows;
    const int64_t *xt, *x0;
    const uint8_t* eligible;
    const int64_t *example, *position;
    int64_t seed, epoch, turn;
    int64_t mask_token_id, mask_below, drafted_below, visible_below, region;
    float temperature; /* 0: the best id */
    int64_t *z, *labels;
    uint8_t* kinds;
    float* p_draft;
    int64_t* n_err;
    uint8_t* bad;
} fe_draft_args;

/* For `blocks` times `length` elements; out [blocks, length, count]. */
typedef struct {
    fe_integers seed, position, forward;
    int64_t blocks, length, purpose, count;
    float* out;
} fe_uniform_args;

/* For `blocks` times `length` elements, out [blocks, length]; forbidden -1: no id is. */
typedef struct {
    fe_integers seed, position, forward;
    int64_t blocks, length, purpose, vocab, forbidden;
    int64_t* out;
} fe_random_ids_args;

/* Texts end to end; cu [pairs + 1]. current has the size of noisy, next one more per pair. */
typedef struct {
    int64_t pairs;
    const int64_t *noisy, *noisy_cu, *clean, *clean_cu;
    int64_t delete_token_id, eos_token_id;
    int64_t first_gap, exchange, label_after_delete;
    int64_t *current, *next;
} fe_levenshtein_labels_args;

/* draft and labels [blocks, draft_length], target [blocks, target_length], lengths [blocks]. */
typedef struct {
    int64_t blocks, draft_length, target_length;
    const int64_t *draft, *target, *draft_len, *target_len;
    int64_t mask_token_id, delete_token_id, insert_token_id, wildcard;
    int64_t* labels;
} fe_lcs_labels_args;

int32_t fe_abi_version(void);

/* Instruction set in use: "avx512", "avx2" or "portable". */
const char* fe_instruction_set(void);

/* Use another one. Returns -1 where this processor or this build does not have it. */
int32_t fe_use_instruction_set(const char* name);

/* Run on the threads of an OpenMP runtime that is already loaded: the address of its GOMP_parallel.
 * Without one, threads are started per call. */
void fe_use_openmp(void* gomp_parallel);

int32_t fe_row_stats(const fe_row_stats_args* args, int32_t threads);
int32_t fe_row_partials(const fe_row_partials_args* args, int32_t threads);
int32_t fe_best_outside(const fe_best_outside_args* args, int32_t threads);
int32_t fe_joint_threshold_step(const fe_step_args* args, int32_t threads);
int32_t fe_joint_threshold_indel_step(const fe_indel_args* args, int32_t threads);
int32_t fe_draft_and_corrupt(const fe_draft_args* args, int32_t threads);
int32_t fe_uniform(const fe_uniform_args* args);
int32_t fe_random_ids(const fe_random_ids_args* args);

/* First word of Philox4x32-10 under `seed` at counter (c0, c1, c2, c3). */
uint32_t fe_philox(uint64_t seed, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3);

int32_t fe_contents(const fe_contents_args* args);
int32_t fe_highest(const fe_highest_args* args);
int32_t fe_within_budget(const fe_within_budget_args* args);
int32_t fe_write_blocks(const fe_write_blocks_args* args);
int32_t fe_entropy_bound_step(const fe_entropy_bound_args* args, int32_t threads);
int32_t fe_correction_step(const fe_correction_args* args, int32_t threads);
int32_t fe_remask_step(const fe_remask_args* args, int32_t threads);
int32_t fe_levenshtein_labels(const fe_levenshtein_labels_args* args, int32_t threads);
int32_t fe_lcs_labels(const fe_lcs_labels_args* args, int32_t threads);
int32_t fe_rewrite_blocks(const fe_rewrite_args* args, const fe_plane* planes);
int32_t fe_compact(const fe_compact_args* args, const fe_plane* planes);

#ifdef __cplusplus
}
#endif
#pragma GCC visibility pop
