// The barrier of a cooperative grid: all blocks arrive before any passes. `barrier` counts the arrivals.

__device__ __forceinline__ void grid_arrive(unsigned* barrier) {
    GRID_ARRIVED();
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        atomicAdd(barrier, 1u);
    }
}

__device__ __forceinline__ void grid_wait(unsigned* barrier, unsigned target) {
    if (threadIdx.x == 0) {
        while (*(volatile unsigned*)barrier < target) __nanosleep(20);
        __threadfence();
    }
    __syncthreads();
    GRID_PASSED();
}
