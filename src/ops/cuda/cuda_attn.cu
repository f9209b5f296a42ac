/* cuda_attn: one warpgroup feeds, warpgroups of 64 rows multiply.
 *
 * The kernel comes in three forms. Whole: two warpgroups of rows walk all segments and merge them as
 * they go, the total in shared memory. Split: one warpgroup takes an entry of the plan, one segment
 * or several, and leaves a partial result of each; the CTA that finishes a row tile's last entry
 * merges the segments in rising order; who has them all merges as it goes. Rotated: split, for
 * single tokens whose heads are rotated on the way. All walk a segment with the same code.
 *
 * While a tile's weights are made, the product of the last tile's values runs, and the other
 * warpgroup's products. */
#include "ops/cuda/cuda_attn_mma.cuh"
#include "ops/cuda/cuda_attn_rope.cuh"

/* What row `row` of the item sees. */
template <typename Shape>
static __device__ __forceinline__ MaskRange attn_row_sees(const AttnParams *p, const AttnItem *item,
                                                          int32_t row) {
    int32_t token = Shape::ROPE ? 0 : (item->row + row) / p->group;
    return cuda_mask_range(item->pos + token, item->kv_len, p->window, p->causal);
}

template <typename Shape>
static __device__ __forceinline__ void attn_lane_rows(const AttnParams *p, const AttnItem *item,
                                                      AttnLane *lane) {
#pragma unroll
    for (int h = 0; h < 2; h++)
        lane->seen[h] = attn_row_sees<Shape>(p, item, min(lane->row[h], item->n_rows - 1));
    int32_t warp_rows = item->n_rows - lane->wg * CUDA_ATTN_ROWS - lane->thread / 32 * 16;
    lane->n_rows = warp_rows <= 0 ? 0 : warp_rows <= 8 ? 1 : 2;
    if (Shape::ROPE) lane->n_rows = min(lane->n_rows, Shape::HALVES);
    int32_t first = lane->wg * CUDA_ATTN_ROWS;
    int32_t last = min(first + CUDA_ATTN_ROWS, item->n_rows) - 1;
    first = min(first, item->n_rows - 1);
    last = max(last, first);
    lane->all.hi = attn_row_sees<Shape>(p, item, first).hi;
    lane->all.lo = attn_row_sees<Shape>(p, item, last).lo;
}

/* Eight f32 queries as bf16. */
static __device__ __forceinline__ uint4 attn_round_q(const float *from) {
    float4 a = __ldg((const float4 *)from), b = __ldg((const float4 *)from + 1);
    float f[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
    uint32_t u[4];
    attn_mma_pack(u, f, 2);
    return make_uint4(u[0], u[1], u[2], u[3]);
}

/* Queues the copies of an item's queries into shared memory, zeros where a warp has none. */
template <typename Shape>
static __device__ __forceinline__ void attn_queries_copy(const AttnParams *p, const AttnItem *item,
                                                         const AttnLane *lane, uint32_t q) {
    constexpr int PIECES = Shape::DIMS / 8;
    const int32_t n_rows = Shape::SPLIT && item->n_rows <= 16 ? 16 : CUDA_ATTN_ROWS;
#pragma unroll 2
    for (int i = lane->thread; i < n_rows * PIECES; i += 128) {
        int32_t r = i / PIECES, piece = i % PIECES, row = lane->wg * CUDA_ATTN_ROWS + r;
        uint32_t to = q + piece / 8 * (CUDA_ATTN_ROWS * 128) + r * 128 + ((piece % 8 ^ r % 8) << 4);
        bool is_there = row < item->n_rows && piece * 8 < p->head_dim;
        AttnRowOf of = attn_row_of<Shape>(p, item, is_there ? row : 0);
        int64_t at = is_there ? attn_row_offset(p, of, p->q_stride) + piece * 8 : 0;
        if (!p->q_f32) {
            asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to),
                         "l"((const __nv_bfloat16 *)p->q + at), "r"(is_there ? 16 : 0)
                         : "memory");
        } else {
            uint4 v = attn_round_q((const float *)p->q + at);
            if (!is_there) v = make_uint4(0, 0, 0, 0);
            asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(v.x), "r"(v.y),
                         "r"(v.z), "r"(v.w)
                         : "memory");
        }
    }
}

/* Makes what the warpgroup wrote to shared memory visible to the tensor cores. */
static __device__ __forceinline__ void attn_publish(const AttnLane *lane) {
    cuda_fence_async();
    cuda_bar_sync(ATTN_BAR_ROWS + lane->wg, 128);
}

/* Waits until the queries of the warpgroup are there. */
static __device__ __forceinline__ void attn_queries_wait(const AttnLane *lane) {
    asm volatile("cp.async.wait_all;" ::: "memory");
    attn_publish(lane);
}

/* Values of the last block's slots behind the last key, which nobody wrote, become zeros, as those of
 * blocks behind it are: 0 * NaN is not 0. Each warpgroup does it for itself, before it multiplies.
 * Whether there are any. */
template <typename Shape>
static __device__ __forceinline__ bool attn_clear_v(const AttnParams *p, const AttnItem *item,
                                                    const AttnLane *lane, uint32_t v,
                                                    int32_t tile) {
    int32_t first = item->kv_len - tile * Shape::TILE, run = min(p->block_tokens, Shape::TILE);
    int32_t end = min((first + run - 1) & -run, Shape::TILE);
#pragma unroll 1
    for (int i = first * 8 + lane->thread; i < end * 8; i += 128) {
#pragma unroll
        for (int c = 0; c < Shape::DIMS / 64; c++)
            asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};" ::"r"(
                             v + c * Shape::TILE * 128 + i * 16),
                         "r"(0)
                         : "memory");
    }
    return first < end;
}

/* From logits to weights. */
template <typename Shape>
static __device__ __forceinline__ void attn_weights(const AttnParams *p, const AttnLane *lane,
                                                    int32_t tile, float (&s)[Shape::TILE / 2],
                                                    SoftmaxState (&state)[2], float (&decay)[2],
                                                    int32_t n_rows) {
    if (n_rows == 0) return;
    if (__builtin_expect(p->cap_in != 0, 0)) {
#pragma unroll
        for (int i = 0; i < Shape::TILE / 2; i++)
            if (i / 2 % 2 < Shape::HALVES) s[i] = cuda_tanh(__fmul_rn(s[i], p->cap_in));
    }
    int32_t key = tile * Shape::TILE;
    if (key < lane->all.lo || key + Shape::TILE > lane->all.hi)
        cuda_mask_tile<Shape::HALVES>(s, key + lane->column, lane->seen);
    cuda_softmax_tile(s, p->scale_log2, state, decay, Shape::ROPE ? 1 : n_rows);
}

static __device__ __forceinline__ void attn_release(const AttnSmem *smem, int32_t stage,
                                                    const AttnLane *lane) {
    __syncwarp();
    if (lane->thread % 32 == 0) cuda_mbar_arrive(smem->empty + stage * 8);
}

/* Waits for the warpgroup's turn to multiply, and passes it on: where weights take as long as
 * products, one warpgroup multiplies while the other makes weights. */
template <typename Shape>
static __device__ __forceinline__ void attn_turn_wait(const AttnLane *lane) {
    if constexpr (Shape::TURNS) cuda_bar_sync(ATTN_BAR_TURN + lane->wg, 256);
}

template <typename Shape>
static __device__ __forceinline__ void attn_turn_pass(const AttnLane *lane) {
    if constexpr (Shape::TURNS)
        asm volatile("bar.arrive %0, 256;" ::"r"(ATTN_BAR_TURN + 1 - lane->wg) : "memory");
}

template <typename Shape>
static __device__ __forceinline__ void attn_decay(float (&o)[Shape::DIMS / 2],
                                                  const float (&decay)[2]) {
    if (__all_sync(0xffffffff, decay[0] == 1.0f && decay[1] == 1.0f)) return;
#pragma unroll
    for (int i = 0; i < Shape::DIMS / 2; i++) o[i] = __fmul_rn(o[i], decay[i / 2 % 2]);
}

/* Waits for the keys at the ring's place; has_new: the new key goes to its row of them. */
template <typename Shape>
static __device__ __forceinline__ void attn_k_wait(const AttnSmem *smem, const AttnItem *item,
                                                   const AttnLane *lane, uint32_t q, AttnRing *ring,
                                                   bool has_new) {
    cuda_mbar_wait(smem->full + ring->at * 8, ring->parity);
    if (has_new) {
        attn_rope_insert<Shape>(item, lane, q, smem->stage + ring->at * Shape::STAGE_BYTES, 0);
        attn_publish(lane);
    }
    attn_ring_next<Shape::N_STAGES>(ring);
}

/* Whether a segment starts at the tile. */
template <typename Shape>
static __device__ __forceinline__ bool attn_is_cut(int32_t tile) {
    constexpr AttnCuts cuts = attn_cuts(Shape::DIMS);
    int32_t n_tiles = tile <= CUDA_ATTN_FIRST_SEGMENTS * cuts.first ? cuts.first : cuts.n_tiles;
    if (tile > CUDA_ATTN_SHORT_SEGMENTS * cuts.n_tiles) n_tiles *= 2;
    return (tile & (n_tiles - 1)) == 0;
}

/* Whether the segment that ends in front of the tile is the item's first. */
template <typename Shape>
static __device__ __forceinline__ bool attn_is_first(const AttnItem *item, int32_t tile) {
    constexpr AttnCuts cuts = attn_cuts(Shape::DIMS);
    return attn_segment_of(tile - 1, cuts) == attn_segment_of(item->tile_lo, cuts);
}

/* One item: all its tiles, and what comes of them. */
template <typename Shape>
static __device__ __forceinline__ void attn_rows(const AttnParams *p, const AttnSmem *smem,
                                                 const AttnItem *item, AttnLane *lane,
                                                 AttnRing *ring, AttnRing *items) {
    constexpr int DIMS = Shape::DIMS, TILE = Shape::TILE;
    uint32_t q = smem->q + lane->wg * (CUDA_ATTN_ROWS * DIMS * 2);
    if (!Shape::SPLIT) q = attn_mma_uniform(q);
    attn_lane_rows<Shape>(p, item, lane);
    attn_queries_wait(lane);
    const bool is_new = attn_rope_is_new<Shape>(item);

    float s[TILE / 2], o[DIMS / 2], decay[2] = {1, 1};
    uint32_t w[TILE / 4];
#pragma unroll
    for (int i = 0; i < DIMS / 2; i++) o[i] = 0;
    SoftmaxState part[2] = {cuda_softmax_empty(), cuda_softmax_empty()};
    SoftmaxState total[2] = {cuda_softmax_empty(), cuda_softmax_empty()};
    int32_t n_rows = Shape::SPLIT ? lane->n_rows : 2; /* few rows are common in the split form */
    const bool has_all = !Shape::SPLIT || item->n_items == 1;
    uint32_t add = 0; /* whether o holds something of this segment */

    uint32_t k = smem->stage + ring->at * Shape::STAGE_BYTES;
    attn_k_wait<Shape>(smem, item, lane, q, ring, is_new && item->tile_lo + 1 >= item->tile_hi);
    cuda_mma_pin(s);
    cuda_mma_pin(o);
    cuda_mma_fence();
    attn_mma_s<DIMS, TILE>(s, q, k);
    cuda_mma_commit();
    cuda_mma_wait<0>();
    for (int32_t t = item->tile_lo;; t++) {
        cuda_mma_wait<1>();
        cuda_mma_pin(s);
        attn_release(smem, attn_ring_before<Shape::N_STAGES>(ring, t > item->tile_lo ? 2 : 1),
                     lane);
        const bool segment_ends = t > item->tile_lo && attn_is_cut<Shape>(t);
        SoftmaxState done[2] = {part[0], part[1]};
        if (segment_ends) part[0] = part[1] = cuda_softmax_empty();
        if (Shape::SPLIT && segment_ends) { /* at once: it has no registers for both */
            cuda_mma_wait<0>();
            cuda_mma_pin(o);
            if (has_all)
                attn_merge<Shape>(smem, lane, done, total, attn_is_first<Shape>(item, t), false, o);
            else
                attn_write_partial<Shape>(p, item, lane, t - 1, done, o);
        }
        attn_weights<Shape>(p, lane, t, s, part, decay, n_rows);
        cuda_mma_wait<0>();
        cuda_mma_pin(o);
        if (t > item->tile_lo) attn_release(smem, attn_ring_before<Shape::N_STAGES>(ring, 1), lane);
        if (!Shape::SPLIT && segment_ends)
            attn_merge<Shape>(smem, lane, done, total, attn_is_first<Shape>(item, t), false, o);
        add = t > item->tile_lo && !segment_ends;
        if (add) attn_decay<Shape>(o, decay);
        attn_mma_pack(w, s, min(n_rows, Shape::HALVES));
        if (t + 1 == item->tile_hi) break;

        k = smem->stage + ring->at * Shape::STAGE_BYTES;
        attn_k_wait<Shape>(smem, item, lane, q, ring, is_new && t + 2 == item->tile_hi);
        attn_turn_wait<Shape>(lane);
        cuda_mma_pin(s);
        cuda_mma_pin(o);
        attn_mma_pin(w);
        cuda_mma_fence();
        attn_mma_s<DIMS, TILE>(s, q, k);
        cuda_mma_commit();
        cuda_mbar_wait(smem->full + ring->at * 8, ring->parity);
        cuda_mma_fence();
        attn_mma_o<DIMS, TILE>(o, w, smem->stage + ring->at * Shape::STAGE_BYTES, add);
        cuda_mma_commit();
        attn_ring_next<Shape::N_STAGES>(ring);
        attn_turn_pass<Shape>(lane);
    }

    AttnRing after = *items;
    attn_ring_next<ATTN_ITEMS>(&after);
    const AttnItem *next = attn_item_wait(smem, &after);
    const bool is_ahead =
        next != NULL && !Shape::ROPE && (!Shape::SPLIT || !has_all || item->n_segments == 1);
    if constexpr (!Shape::ROPE)
        cuda_bar_sync(ATTN_BAR_ROWS + lane->wg, 128); /* no warp reads the queries any more */
    if (is_ahead) attn_queries_copy<Shape>(p, next, lane, q);
    const int32_t slot = is_new ? __ldg(p->rope.kv_slot + item->query) : -1;
    uint32_t v = smem->stage + ring->at * Shape::STAGE_BYTES;
    cuda_mbar_wait(smem->full + ring->at * 8, ring->parity);
    const bool is_cleared = attn_clear_v<Shape>(p, item, lane, v, item->tile_hi - 1);
    if (is_new) attn_rope_insert<Shape>(item, lane, q, v, 1);
    if (is_cleared || is_new) attn_publish(lane);
    cuda_mma_pin(o);
    attn_mma_pin(w);
    cuda_mma_fence();
    attn_mma_o<DIMS, TILE>(o, w, v, add);
    cuda_mma_commit();
    if constexpr (Shape::ROPE) {
        if (next != NULL) attn_rope_fetch<Shape>(p, next, lane, q);
        if (is_new) attn_rope_write<Shape>(p, item, lane, q, slot);
    }
    cuda_mma_wait<0>();
    cuda_mma_pin(o);
    attn_release(smem, ring->at, lane);
    attn_ring_next<Shape::N_STAGES>(ring);

    if (!has_all) {
        attn_write_partial<Shape>(p, item, lane, item->tile_hi - 1, part, o);
        if (attn_is_last(p, item, lane, smem->last)) attn_combine<Shape>(p, item, lane);
    } else {
        attn_merge<Shape>(smem, lane, part, total, item->n_segments == 1, true, o);
        attn_write<Shape>(p, item, lane, total, o);
        if (!Shape::ROPE && next != NULL && !is_ahead) { /* the total has been read */
            cuda_bar_sync(ATTN_BAR_ROWS + lane->wg, 128);
            attn_queries_copy<Shape>(p, next, lane, q);
        }
    }
}

template <typename Shape>
__global__ void __launch_bounds__(Shape::N_THREADS, Shape::CTAS_PER_SM)
    attn_kernel(const __grid_constant__ AttnParams p) {
    AttnSmem smem = attn_smem<Shape>();
    if (threadIdx.x == 0) attn_smem_init<Shape>(&smem);
    cuda_launch_next();
    if (!Shape::ROPE) cuda_launch_wait();
    __syncthreads();
    int32_t wg = threadIdx.x / 128;
    if (wg == Shape::N_WG) {
        if constexpr (Shape::REGS != 0) cuda_regs_lower<Shape::COPY_REGS>();
        int32_t warp = threadIdx.x % 128 / 32;
        if (warp < ATTN_COPY_WARPS)
            attn_copy<Shape>(&p, &smem, warp);
        else if (warp == ATTN_ITEM_WARP)
            attn_take_items<Shape>(&p, &smem, threadIdx.x % 32);
    } else {
        if constexpr (Shape::REGS != 0) cuda_regs_raise<Shape::REGS>();
        AttnLane lane;
        lane.wg = Shape::N_WG == 1 ? 0 : wg;
        lane.thread = threadIdx.x % 128;
        lane.row[0] = lane.wg * CUDA_ATTN_ROWS + lane.thread / 32 * 16 + lane.thread % 32 / 4;
        lane.row[1] = lane.row[0] + 8;
        lane.column = lane.thread % 4 * 2;
        AttnRing ring = {0, 0}, items = {0, 0};
        if (wg == 1) attn_turn_pass<Shape>(&lane);
        const AttnItem *item = attn_item_wait(&smem, &items);
        uint32_t q = smem.q + lane.wg * (CUDA_ATTN_ROWS * Shape::DIMS * 2);
        if (item != NULL) {
            if constexpr (Shape::ROPE)
                attn_rope_fetch_first<Shape>(&p, item, &lane, q);
            else
                attn_queries_copy<Shape>(&p, item, &lane, q);
        }
        while (item != NULL) {
            if constexpr (Shape::ROPE) attn_rope_make<Shape>(&p, &lane, q);
            attn_rows<Shape>(&p, &smem, item, &lane, &ring, &items);
            attn_item_done(&smem, &items);
            item = attn_item_wait(&smem, &items);
        }
    }
}

/* ---- launches ---- */

typedef CUresult (*AttnEncode)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *,
                               const cuuint64_t *, const cuuint64_t *, const cuuint32_t *,
                               const cuuint32_t *, CUtensorMapInterleave, CUtensorMapSwizzle,
                               CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

static AttnEncode attn_encode(void) {
    static AttnEncode encode;
    void *entry = NULL;
    cudaDriverEntryPointQueryResult found;
    if (encode == NULL &&
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault,
                                         &found) == cudaSuccess &&
        found == cudaDriverEntryPointSuccess) {
        encode = (AttnEncode)entry;
    }
    return encode;
}

/* Keys or values as a matrix of rows of head_dim elements, read in runs of one block. */
static cudaError_t attn_map(const CudaAttnArgs *args, const void *data, CUtensorMap *map) {
    AttnEncode encode = attn_encode();
    if (encode == NULL) return cudaErrorNotSupported;
    int32_t tile = attn_tile(args->limits.head_dim);
    cuuint64_t shape[2] = {
        (cuuint64_t)args->limits.head_dim,
        (cuuint64_t)args->n_blocks * args->limits.n_kv_heads * args->block_tokens};
    cuuint64_t stride[1] = {(cuuint64_t)args->limits.head_dim * 2};
    cuuint32_t box[2] = {64, (cuuint32_t)(args->block_tokens < tile ? args->block_tokens : tile)};
    cuuint32_t step[2] = {1, 1};
    CUresult result = encode(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, (void *)data, shape, stride,
                             box, step, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

static bool attn_is_valid(const CudaAttnArgs *args) {
    int32_t bt = args->block_tokens;
    return args->limits.head_dim >= 8 && args->limits.head_dim <= 256 &&
           args->limits.head_dim % 8 == 0 && bt >= 1 && bt <= 256 && (bt & (bt - 1)) == 0 &&
           args->limits.n_kv_heads >= 1 && args->limits.n_heads >= 1 &&
           args->limits.n_heads % args->limits.n_kv_heads == 0 && args->q_stride % 8 == 0 &&
           args->out_stride % 8 == 0 && (uintptr_t)args->q % 16 == 0 &&
           (uintptr_t)args->out % 16 == 0 && (uintptr_t)args->k % 16 == 0 &&
           (uintptr_t)args->v % 16 == 0 && args->scale > 0;
}

static void attn_params(const CudaAttnArgs *args, AttnParams *p) {
    const CudaAttnLimits *limits = &args->limits;
    AttnPlaces places = cuda_attn_places(limits);
    char *plan = (char *)args->plan, *partial = (char *)args->partial;
    p->q = args->q, p->out = args->out;
    p->q_stride = args->q_stride, p->out_stride = args->out_stride;
    p->q_f32 = args->q_f32, p->out_f32 = args->out_f32;
    p->block_id = args->block_id;
    p->sinks = args->sinks;
    p->plan = (const AttnLists *)plan;
    p->whole = (const AttnItem *)(plan + places.whole);
    p->split = (const AttnItem *)(plan + places.split);
    p->partial_o = (float *)partial;
    p->partial_ml = (float2 *)(partial + places.ml);
    p->partial_count = (uint32_t *)(partial + places.count);
    p->taken = p->partial_count + places.n_partial_rows;
    p->n_kv_heads = limits->n_kv_heads;
    p->group = limits->n_heads / limits->n_kv_heads;
    p->head_dim = limits->head_dim;
    p->block_tokens = args->block_tokens;
    while (1 << p->block_shift < args->block_tokens) p->block_shift++;
    p->window = args->window, p->causal = args->causal;
    const CudaAttnRope *rope = &args->rope;
    p->rope = AttnRope{rope->k,
                       rope->v,
                       rope->kv_stride,
                       rope->q_norm,
                       rope->k_norm,
                       rope->cos_sin,
                       rope->kv_slot,
                       (void *)args->k,
                       (void *)args->v,
                       {limits->head_dim, rope->rope_dim, rope->norm_eps, (RopeStyle)rope->style}};
    bool capped = args->softcap > 0;
    p->cap_in = capped ? args->scale / args->softcap : 0;
    p->scale_log2 = (capped ? args->softcap : args->scale) * 1.4426950409f;
}

bool cuda_attn_can_rope(const CudaAttnArgs *args) {
    int32_t group = args->limits.n_heads / args->limits.n_kv_heads;
    return args->query_len_max == 1 && group <= CUDA_ATTN_FEW_ROWS && !args->q_f32 &&
           attn_is_valid(args) && args->rope.kv_stride % 8 == 0 &&
           (uintptr_t)args->rope.k % 16 == 0 && (uintptr_t)args->rope.v % 16 == 0 &&
           cuda_attn_bounds(args).n_whole == 0;
}

template <typename Shape>
static cudaError_t attn_launch(cudaStream_t stream, const AttnParams *params, int32_t n_items,
                               int32_t n_sms, bool dependent) {
    cudaError_t e = cudaFuncSetAttribute(
        attn_kernel<Shape>, cudaFuncAttributeMaxDynamicSharedMemorySize, Shape::SMEM_BYTES);
    if (e != cudaSuccess) return e;
    int32_t n_ctas = n_sms * Shape::CTAS_PER_SM;
    if (n_ctas > n_items) n_ctas = n_items;
    return attn_launch_kernel(stream, attn_kernel<Shape>, n_ctas, Shape::N_THREADS,
                              Shape::SMEM_BYTES, dependent, *params);
}

template <int DIMS>
static cudaError_t attn_launch_dims(cudaStream_t stream, const CudaAttnArgs *args,
                                    const AttnParams *params, int32_t n_sms) {
    AttnBounds bounds = cuda_attn_bounds(args);
    int32_t n_split = bounds.n_split * args->limits.n_kv_heads;
    if (args->rope.k != NULL)
        return attn_launch<AttnShape<DIMS, true, true>>(stream, params, n_split, n_sms,
                                                        args->dependent);
    cudaError_t e =
        attn_launch<AttnShape<DIMS, true>>(stream, params, n_split, n_sms, args->dependent);
    if (e != cudaSuccess || bounds.n_whole == 0) return e;
    return attn_launch<AttnShape<DIMS, false>>(
        stream, params, bounds.n_whole * args->limits.n_kv_heads, n_sms, args->dependent);
}

cudaError_t cuda_attn(cudaStream_t stream, const CudaAttnArgs *args) {
    if (args->n_tokens <= 0) return cudaSuccess;
    if (!attn_is_valid(args)) return cudaErrorInvalidValue;
    AttnParams p = {};
    int32_t n_sms = 0;
    cudaError_t e = attn_map(args, args->k, &p.k_map);
    if (e == cudaSuccess) e = attn_map(args, args->v, &p.v_map);
    if (e == cudaSuccess) e = cuda_attn_n_sms(&n_sms);
    if (e != cudaSuccess) return e;
    attn_params(args, &p);
    switch (attn_dims(args->limits.head_dim)) {
        case 64: return attn_launch_dims<64>(stream, args, &p, n_sms);
        case 128: return attn_launch_dims<128>(stream, args, &p, n_sms);
        default: return attn_launch_dims<256>(stream, args, &p, n_sms);
    }
}
