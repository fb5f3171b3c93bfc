// The best items of each user, a warp per user.
//
// scores: (count, items). The scores of the seen items seen[begin[u]] … seen[begin[u + 1] - 1] are set to -infinity.
// The list of the best items so far is sorted, in shared memory. An item enters if its score is above the last one of
// the list, and goes behind equal scores. Few items enter once the list is full: each lane tests four scores at a time.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    top_items(real* scores, const int64* begin, const int* seen, int* best, real* best_score, int count, int items, int n) {
    DYNAMIC_SHARED(real, shared);
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    real* score = shared + warp * n;
    int* which = (int*)(shared + warps * n) + warp * n;
    for (int u = blockIdx.x * warps + warp; u < count; u += gridDim.x * warps) {
        real* mine = scores + (int64)u * items;
        const real worst = log((real)0);
        for (int64 x = begin[u] + lane; x < begin[u + 1]; x += 32) mine[seen[x]] = worst;
        __syncwarp();
        int held = 0;
        real last = worst;  // an item enters with a higher score
        for (int i0 = 0; i0 < items; i0 += 128) {
            real s[4], most = worst;
#pragma unroll
            for (int k = 0; k < 4; ++k) {
                int i = i0 + 32 * k + lane;
                s[k] = i < items ? mine[i] : worst;
                most = max(most, s[k]);
            }
            if (!__any_sync(ALL_LANES, most > last)) continue;
#pragma unroll
            for (int k = 0; k < 4; ++k) {
                unsigned enter = __ballot_sync(ALL_LANES, s[k] > last);
                while (enter) {
                    int from = __ffs(enter) - 1;
                    enter &= enter - 1;
                    real new_score = __shfl_sync(ALL_LANES, s[k], from);
                    if (!(new_score > last)) continue;  // items that entered before it have raised `last`
                    int keep = 0;                       // number of items before it
                    for (int x = 0; x < held; x += 32)
                        keep += __popc(__ballot_sync(ALL_LANES, x + lane < held && score[x + lane] >= new_score));
                    // The items behind it move down by one, the last ones first.
                    for (int x = (held - 1 - keep) / 32 * 32 + keep; held > keep && x >= keep; x -= 32) {
                        int at = x + lane;
                        bool moves = at < held && at + 1 < n;
                        real moved = moves ? score[at] : (real)0;
                        int moved_which = moves ? which[at] : 0;
                        __syncwarp();
                        if (moves) score[at + 1] = moved, which[at + 1] = moved_which;
                    }
                    if (lane == 0) score[keep] = new_score, which[keep] = i0 + 32 * k + from;
                    __syncwarp();
                    if (held < n) ++held;
                    if (held == n) last = score[n - 1];
                    __syncwarp();
                }
            }
        }
        for (int x = lane; x < n; x += 32) {
            best[(int64)u * n + x] = x < held ? which[x] : -1;
            best_score[(int64)u * n + x] = x < held ? score[x] : worst;
        }
        __syncwarp();
    }
}
