// The score of one rating, its output, and the gradient of its rows.

// A lane's part of (F2) and (F3). Both rows are 0 in the padding. The bias columns are added to each other first: the
// sum is symmetric, so that both owners of a rating, each of which has its own row as p, get the same bits.
__device__ __forceinline__ real score_part(const Setup& a, const Vec* p, const Vec* q, int lane) {
    real s = 0;
#pragma unroll
    for (int c = 0; c < CHUNKS; ++c)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            real x = p[c].x[i], y = q[c].x[i];
            s += first_column(c, lane) + i < a.factors ? x * y : x + y;
        }
    return s;
}

__device__ __forceinline__ real sigmoid(real s) { return (real)0.5 * (1 + tanh((real)0.5 * s)); }

// (F4): the output, which is the score or lies within the rating range.
__device__ __forceinline__ real predicted(real s, int range, double low, double high) {
    return range ? (real)low + (real)(high - low) * sigmoid(s) : s;
}

// (B4): the derivative of the output by the score, within a rating range.
__device__ __forceinline__ real range_slope(real s, double low, double high) {
    real g = sigmoid(s);
    return (real)(high - low) * g * (1 - g);
}

// (B2), (B3), (B1): add one rating's derivatives to the gradient of a row.
__device__ __forceinline__ void add_gradient(const Setup& a, Vec* g, const Vec* q, real d, int lane) {
#pragma unroll
    for (int c = 0; c < CHUNKS; ++c)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            int column = first_column(c, lane) + i;
            g[c].x[i] += d * (column == a.bias_column ? (real)1 : column < a.factors ? q[c].x[i] : (real)0);
        }
}

__device__ __forceinline__ void clear(Vec* g) {
#pragma unroll
    for (int c = 0; c < CHUNKS; ++c)
        for (int i = 0; i < 4; ++i) g[c].x[i] = 0;
}
