// The scheduler behind device.h: blocks, warps and threads as fibers on one CPU thread, and the race checker.
//
// seed 0 runs threads in order; an odd seed picks the next one at random, so that a block is left at any moment.
// A launch that cannot go on is reported as a deadlock with where each kind of thread waits.
#include "device.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <string>
#include <unordered_map>
#include <vector>

namespace emu {

#ifndef STACK_BYTES
#define STACK_BYTES (64 << 10)
#endif

// --- switching from one stack to another ---------------------------------------------------------------------------

#if defined(__x86_64__) && !defined(USE_UCONTEXT)
typedef void* Context;
extern "C" void emu_switch(void** from, void* to);
asm(R"(
.text
.globl emu_switch
.type emu_switch, @function
emu_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size emu_switch, .-emu_switch
)");
static void swap(Context& from, Context& to) { emu_switch(&from, to); }
static void prepare(Context& c, char* stack, size_t size, void (*entry)()) {
    void** top = (void**)(stack + size);
    top[-1] = nullptr;  // where a caller's return address would be: keeps the stack aligned as after a call
    top[-2] = (void*)entry;
    for (int i = 3; i <= 8; ++i) top[-i] = nullptr;
    c = top - 8;
}
#else
#include <ucontext.h>
typedef ucontext_t Context;
static void swap(Context& from, Context& to) { swapcontext(&from, &to); }
static void prepare(Context& c, char* stack, size_t size, void (*entry)()) {
    getcontext(&c);
    c.uc_stack.ss_sp = stack;
    c.uc_stack.ss_size = size;
    c.uc_link = nullptr;
    makecontext(&c, entry, 0);
}
#endif

// --- threads, warps, blocks ----------------------------------------------------------------------------------------

struct Block;
struct Warp {
    unsigned alive = 0, arrived = 0;
    Op op[32];
    unsigned mask[32];
    uint64_t value[32], result[32];
    int source[32], line[32];
    struct Fiber* lane[32] = {};
};
struct Fiber {
    Context context;
    Place place;
    Block* block;
    Warp* warp;
    int lane, id;
    char* stack;
    bool done, waiting;
    int line;
    const char* what;
    int result;
    // clocks of the race checker
    unsigned warp_epoch, block_epoch, arrived_epoch, passed_epoch;
};
struct Block {
    std::vector<Warp> warps;
    std::vector<Fiber*> fibers;
    int alive = 0, arrived = 0, any = 0, line = 0;
    Op op;
    unsigned char* shared = nullptr;
};

Place* here;
static Fiber* current;
static Context scheduler;
static std::vector<Fiber*> ready;
static size_t head;
static std::string message;
static bool failed;
static unsigned long long idle;
static uint64_t random_state;
static std::vector<Fiber*> pool;
static std::vector<Fiber*> running;
static void (*kernel)(void**);
static void** kernel_arguments;

static void leave() { swap(current->context, scheduler); }

static void describe(char* out, size_t size, const Fiber* f) {
    snprintf(out, size, "block %u thread %u", f->place.block.x, f->place.thread.x);
}

void fail(int line, const char* format, ...) {
    char text[512], who[64] = "the scheduler";
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    if (current) describe(who, sizeof who, current);
    if (!failed) message = std::string(text) + " (line " + std::to_string(line) + ", " + who + ")";
    failed = true;
    leave();
    abort();
}

static void wake(Fiber* f) {
    f->waiting = false;
    ready.push_back(f);
}

static void wait(const char* what, int line) {
    current->waiting = true;
    current->what = what;
    current->line = line;
    leave();
}

uint64_t collective(Op op, unsigned mask, uint64_t value, int source, int line) {
    idle = 0;
    Warp& w = *current->warp;
    int lane = current->lane;
    if (!(mask >> lane & 1)) fail(line, "lane %d calls a warp operation with mask %08x, which lacks it", lane, mask);
    if (mask & ~w.alive) fail(line, "mask %08x names lanes that have left or never were (%08x are there)", mask, w.alive);
    w.op[lane] = op;
    w.mask[lane] = mask;
    w.value[lane] = value;
    w.source[lane] = source;
    w.line[lane] = line;
    w.arrived |= 1u << lane;
    if ((w.arrived & mask) != mask) {
        wait("a warp operation", line);
        return w.result[lane];
    }
    unsigned votes = 0;
    for (int i = 0; i < 32; ++i)
        if (mask >> i & 1) {
            if (w.op[i] != op || w.mask[i] != mask || w.line[i] != line)
                fail(line, "lanes %d and %d meet in different warp operations (lines %d and %d, masks %08x and %08x)",
                     lane, i, line, w.line[i], mask, w.mask[i]);
            votes |= (unsigned)(w.value[i] != 0) << i;
        }
    for (int i = 0; i < 32; ++i)
        if (mask >> i & 1) {
            if (op == SHUFFLE) {
                if (!(mask >> w.source[i] & 1)) fail(line, "lane %d reads lane %d, outside mask %08x", i, w.source[i], mask);
                w.result[i] = w.value[w.source[i]];
            } else
                w.result[i] = votes;
            if (op == SYNCWARP) w.lane[i]->warp_epoch++;
            if (i != lane) wake(w.lane[i]);
        }
    w.arrived &= ~mask;
    return w.result[lane];
}

int block_barrier(Op op, int value, int line) {
    idle = 0;
    Block& b = *current->block;
    if (b.alive != (int)b.fibers.size()) fail(line, "a block barrier after %d threads have left", (int)b.fibers.size() - b.alive);
    if (b.arrived && (b.line != line || b.op != op))
        fail(line, "threads of a block meet in different barriers (lines %d and %d)", line, b.line);
    if (!b.arrived) b.any = 0;
    b.line = line;
    b.op = op;
    b.any |= value != 0;
    if (++b.arrived < b.alive) {
        wait("a block barrier", line);
        return current->result;
    }
    b.arrived = 0;
    for (Fiber* f : b.fibers) {
        f->result = b.any;
        f->block_epoch++;
        if (f != current) wake(f);
    }
    return b.any;
}

void pause(int line) {
    current->what = "a spin loop";
    current->line = line;
    ready.push_back(current);
    ++idle;
    leave();
}

void grid_arrive(int) { current->arrived_epoch++; }

void grid_wait(int line) {
    idle = 0;
    unsigned needed = ++current->passed_epoch;
    for (Fiber* f : running)
        if (f->arrived_epoch < needed) {
            char who[64];
            describe(who, sizeof who, f);
            fail(line, "the grid barrier was passed before %s arrived", who);
        }
}

// --- the race checker: hooks that g++ -fsanitize=thread calls, with a shadow of every four bytes -------------------

struct Access {
    int id = -1, block, warp, line;
    unsigned warp_epoch, block_epoch, arrived_epoch;
    bool atomic;
    unsigned char bytes;  // which of the four
};
struct Shadow {
    Access write, reads[3];
};
static std::unordered_map<uintptr_t, Shadow> shadow;
static bool checking;

static bool ordered(const Access& a) {
    const Fiber& f = *current;
    if (a.id < 0 || a.id == f.id) return true;
    if (f.passed_epoch > a.arrived_epoch) return true;
    if (a.block != (int)f.place.block.x) return false;
    if (f.block_epoch > a.block_epoch) return true;
    return a.warp == (int)(f.place.thread.x >> 5) && f.warp_epoch > a.warp_epoch;
}

static void record(const void* address, size_t size, bool write, bool atomic, int line) {
    if (!checking || !current || failed) return;
    uintptr_t first = (uintptr_t)address;
    uintptr_t stack = (uintptr_t)current->stack;
    if (first - stack < STACK_BYTES) return;
    Access now{current->id, (int)current->place.block.x, (int)(current->place.thread.x >> 5), line,
               current->warp_epoch, current->block_epoch, current->arrived_epoch, atomic, 15};
    for (uintptr_t cell = first >> 2; cell <= (first + size - 1) >> 2; ++cell) {
        now.bytes = 0;
        for (int i = 0; i < 4; ++i)
            if ((cell << 2) + i - first < size) now.bytes |= 1 << i;
        Shadow& s = shadow[cell];
        auto check = [&](const Access& other, const char* kind) {
            if (other.bytes & now.bytes && !ordered(other) && !(other.atomic && atomic))
                fail(line, "race: %s of %p, unordered with a %s by block %d thread %d", write ? "write" : "read",
                     (void*)(cell << 2), kind, other.block, other.id);
        };
        check(s.write, "write");
        if (write) {
            for (const Access& r : s.reads) check(r, "read");
            s.write = now;
            for (Access& r : s.reads) r.id = -1;
        } else {
            Access* slot = &s.reads[0];
            for (Access& r : s.reads)
                if (r.id < 0 || r.id == now.id || ordered(r)) {
                    slot = &r;
                    break;
                }
            *slot = now;
        }
    }
}

void atomic(const void* address, size_t size, int line) {
    idle = 0;
    record(address, size, true, true, line);
}

extern "C" {
#define HOOKS(n)                                                                              \
    void __tsan_read##n(void* a) { record(a, n, false, false, 0); }                           \
    void __tsan_write##n(void* a) { record(a, n, true, false, 0); }                           \
    void __tsan_unaligned_read##n(void* a) { record(a, n, false, false, 0); }                 \
    void __tsan_unaligned_write##n(void* a) { record(a, n, true, false, 0); }                 \
    void __tsan_volatile_read##n(void*) {}                                                    \
    void __tsan_volatile_write##n(void*) {}                                                   \
    void __tsan_unaligned_volatile_read##n(void*) {}                                          \
    void __tsan_unaligned_volatile_write##n(void*) {}
HOOKS(1) HOOKS(2) HOOKS(4) HOOKS(8) HOOKS(16)
void __tsan_read_range(void* a, size_t n) { if (n) record(a, n, false, false, 0); }
void __tsan_write_range(void* a, size_t n) { if (n) record(a, n, true, false, 0); }
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void*, void*) {}
void __tsan_vptr_read(void*) {}
void* __tsan_memcpy(void* to, const void* from, size_t n) {
    if (n) record(from, n, false, false, 0), record(to, n, true, false, 0);
    return memcpy(to, from, n);
}
void* __tsan_memset(void* to, int c, size_t n) {
    if (n) record(to, n, true, false, 0);
    return memset(to, c, n);
}
}

// --- launching -----------------------------------------------------------------------------------------------------

static void run_fiber() {
    kernel(kernel_arguments);
    current->done = true;
    current->block->alive--;
    current->warp->alive &= ~(1u << current->lane);
    idle = 0;
    leave();
    abort();
}

static Fiber* fiber(size_t i) {
    while (pool.size() <= i) {
        size_t page = 4096;
        char* memory = (char*)mmap(nullptr, STACK_BYTES + page, PROT_READ | PROT_WRITE,
                                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) {
            perror("mmap of a fiber's stack");
            abort();
        }
        mprotect(memory, page, PROT_NONE);  // the guard
        Fiber* f = new Fiber();
        f->stack = memory + page;
        pool.push_back(f);
    }
    return pool[i];
}

static uint64_t draw() {
    random_state = random_state * 6364136223846793005ull + 1442695040888963407ull;
    return random_state >> 33;
}

static void deadlock() {
    std::unordered_map<std::string, std::pair<int, std::string>> groups;
    for (Fiber* f : running)
        if (!f->done) {
            char who[64];
            describe(who, sizeof who, f);
            auto& g = groups[std::string(f->what ? f->what : "nothing") + " at line " + std::to_string(f->line)];
            if (!g.first++) g.second = who;
        }
    message = "deadlock:";
    for (auto& g : groups)
        message += " " + std::to_string(g.second.first) + " threads wait for " + g.first + " (first: " + g.second.second + ");";
    failed = true;
}

static void run_blocks(unsigned first, unsigned count, dim3 grid, dim3 block, size_t shared_bytes, bool shuffle) {
    unsigned threads = block.x;
    std::vector<Block> blocks(count);
    ready.clear();
    running.clear();
    head = 0;
    idle = 0;
    for (unsigned b = 0; b < count; ++b) {
        Block& blk = blocks[b];
        blk.warps.resize((threads + 31) / 32);
        blk.alive = threads;
        // Exactly as many bytes as were asked for, so that a sanitizer sees the first one beyond; all NaN.
        void* memory = nullptr;
        if (posix_memalign(&memory, 64, shared_bytes ? shared_bytes : 1)) abort();
        memset(memory, 0xff, shared_bytes);
        blk.shared = (unsigned char*)memory;
        for (unsigned t = 0; t < threads; ++t) {
            Fiber* f = fiber((size_t)b * threads + t);
            f->place = Place{{t, 0, 0}, {first + b, 0, 0}, block, grid, blk.shared};
            f->block = &blk;
            f->warp = &blk.warps[t / 32];
            f->lane = t % 32;
            f->id = (int)((first + b) * threads + t);
            f->done = f->waiting = false;
            f->what = nullptr;
            f->warp_epoch = f->block_epoch = f->arrived_epoch = f->passed_epoch = 0;
            f->warp->alive |= 1u << f->lane;
            f->warp->lane[f->lane] = f;
            prepare(f->context, f->stack, STACK_BYTES, run_fiber);
            blk.fibers.push_back(f);
            running.push_back(f);
            ready.push_back(f);
        }
    }
    size_t left = running.size();
    while (left && !failed) {
        if (head == ready.size()) {
            deadlock();
            break;
        }
        if (idle > 2000ull * (ready.size() - head + 1)) {
            deadlock();
            break;
        }
        if (shuffle) std::swap(ready[head], ready[head + draw() % (ready.size() - head)]);
        current = ready[head++];
        if (head > 4096 && head * 2 > ready.size()) {
            ready.erase(ready.begin(), ready.begin() + head);
            head = 0;
        }
        here = &current->place;
        swap(scheduler, current->context);
        if (current->done) --left;
    }
    current = nullptr;
    for (Block& b : blocks) {
        // The next blocks may get the same memory: what these did there is over.
        if (checking)
            for (uintptr_t c = (uintptr_t)b.shared >> 2; c <= ((uintptr_t)b.shared + shared_bytes) >> 2; ++c) shadow.erase(c);
        free(b.shared);
    }
}

extern "C" int emu_launch(void (*entry)(void**), void** arguments, unsigned grid, unsigned block, size_t shared_bytes,
                          int cooperative, uint64_t seed, int check_races, char* error, size_t error_size) {
    failed = false;
    message.clear();
    kernel = entry;
    kernel_arguments = arguments;
    random_state = seed * 0x9E3779B97F4A7C15ull + 1;
    checking = check_races != 0;
    shadow.clear();
    // A cooperative launch has all its blocks at work together; otherwise two at a time, first or last ones first.
    unsigned together = cooperative ? grid : 2;
    bool shuffle = seed & 1;
    unsigned parts = (grid + together - 1) / together;
    for (unsigned p = 0; p < parts && !failed; ++p) {
        unsigned first = (shuffle ? parts - 1 - p : p) * together;
        unsigned count = grid - first < together ? grid - first : together;
        run_blocks(first, count, dim3{grid, 1, 1}, dim3{block, 1, 1}, shared_bytes, shuffle);
    }
    current = nullptr;
    snprintf(error, error_size, "%s", message.c_str());
    return failed;
}
}  // namespace emu
