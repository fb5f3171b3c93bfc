// Sums of losses, over steps and over a call.

#define LOSS_THREADS 256  // fixed, because the order of the sums depends on it

__device__ __forceinline__ double block_sum(double x, double* shared) {
    shared[threadIdx.x] = x;
    __syncthreads();
    for (int half = LOSS_THREADS / 2; half; half >>= 1) {
        if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
        __syncthreads();
    }
    double sum = shared[0];
    __syncthreads();
    return sum;
}

// The sum of the losses of each step and head: (F9) times B.
extern "C" __global__ void __launch_bounds__(LOSS_THREADS)
    step_losses(const real* losses, double* sums, int n, int batch, int steps, int heads) {
    DYNAMIC_SHARED(double, shared);
    for (int64 i = blockIdx.x; i < (int64)steps * heads; i += gridDim.x) {
        int64 step = i / heads, head = i % heads, from = step * batch, to = min(from + batch, (int64)n);
        double sum = 0;
        for (int64 j = from + threadIdx.x; j < to; j += LOSS_THREADS) sum += losses[head * n + j];
        sum = block_sum(sum, shared);
        if (threadIdx.x == 0) sums[i] = sum;
    }
}

// out: for each head the sum over the steps before the first failed one; then that step, or -1.
extern "C" __global__ void __launch_bounds__(LOSS_THREADS) call_loss(const double* sums, double* out, int steps, int heads) {
    DYNAMIC_SHARED(double, shared);
    int failed = steps;
    for (int i = threadIdx.x; i < steps * heads; i += LOSS_THREADS)
        if (!isfinite((real)sums[i])) failed = min(failed, i / heads);
    shared[threadIdx.x] = failed;
    __syncthreads();
    for (int half = LOSS_THREADS / 2; half; half >>= 1) {
        if (threadIdx.x < half) shared[threadIdx.x] = min(shared[threadIdx.x], shared[threadIdx.x + half]);
        __syncthreads();
    }
    failed = (int)shared[0];
    __syncthreads();
    for (int head = 0; head < heads; ++head) {
        double sum = 0;
        for (int i = threadIdx.x; i < failed; i += LOSS_THREADS) sum += sums[(int64)i * heads + head];
        sum = block_sum(sum, shared);
        if (threadIdx.x == 0) out[head] = sum;
    }
    if (threadIdx.x == 0) out[heads] = failed < steps ? failed : -1;
}
