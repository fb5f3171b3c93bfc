// Constants, types and structs of all kernels.
//
// All .cuh files of this folder are one text, joined by device.py in the order of its FILES, and compiled at run time.
// The labels (F1) … (F10), (B1) …, (U1) … are those of ops.py and optim.py, where each equation is derived.
//
// Memory layout. Users and items share one table of rows, users first. A row has its factors, its bias in the column
// after them (if the model has biases), and zeros up to a multiple of four columns, so that each access is 16 bytes:
//
//     row = [ weight | momentum or first moment | second moment ], each of `stride` numbers
//
// A warp works on a row; lane l has the columns 4 l … 4 l + 3 of each chunk of 128. The bias needs no code of its own:
// the partner's column counts as 1 in (F3) and (B3).
//
// Determinism. Each row of a batch has one owner, which adds up the derivatives of the row's ratings in the order of
// the batch. No result depends on the number of blocks or threads.

#ifndef REAL
#define REAL float
#endif
#ifndef CHUNKS  // number of chunks of 128 columns in a row
#define CHUNKS 1
#endif
#ifndef THREADS  // most threads per block. Launch bounds ask for 1 block per processor: for 2, ptxas would spill.
#define THREADS 256
#endif
#ifndef HALF  // 1: per-rating SGD stores rows in half precision; the arithmetic is in `real`
#define HALF 0
#endif
#ifndef NETS  // 0: without the kernels of nets
#define NETS 1
#endif
// Constants of a compiled program. The CPU tests read them from `Setup` instead, so that programs share one build.
#ifndef KIND
#define KIND a.kind
#endif
#ifndef DECAY
#define DECAY a.decay_kind
#endif
#ifndef NESTEROV
#define NESTEROV a.nesterov
#endif
#ifndef SPARSE
#define SPARSE a.sparse
#endif
#ifndef RANGE
#define RANGE a.range
#endif
#ifndef LOSS
#define LOSS a.loss
#endif
#ifndef EMULATED
extern __shared__ __align__(16) unsigned char shared_bytes[];
#define DYNAMIC_SHARED(type, name) type* name = (type*)shared_bytes
#define GRID_ARRIVED()  // for the tests' race checker
#define GRID_PASSED()
#endif

typedef REAL real;
typedef long long int64;
typedef unsigned long long uint64;
#define ALL_LANES 0xffffffffu

enum { SGD, MOMENTUM, ADAM };
enum { NO_DECAY, L2, PER_RATING, DECOUPLED };
enum { SQUARED_ERROR, LOGISTIC };

struct __align__(16) Vec {
    real x[4];
};

struct Setup {
    double mean, low, high, eps;    // (F3), (F4), (U8)
    double momentum, beta1, beta2;  // (U4), (U6), (U7)
    double decay[4];                // lambda of user factors, item factors, user biases, item biases
    double expand;                  // largest allowed relative error of (C4); 0: catch-up under Adam makes every step
    int kind, decay_kind, nesterov, sparse, range, loss;
    int users, items, factors, bias_column, stride, slots;
    int sweep;   // number of steps between two sweeps, which bring all rows up to date; 0: only at the end
    int fading;  // beta1^2 < beta2: the steps of untouched rows under Adam shrink
    int levels;  // number of levels of the table of products
};

// The numbers of one step: learning rate, and Adam's scalars of (U8), (U9).
struct __align__(16) Rates {
    real lr, rate, root, eps;
};

struct Row {
    Vec w[CHUNKS], m[CHUNKS], v[CHUNKS];
};
