/* Kernels for which PyTorch needs several passes over memory. native.py compiles and calls them; a test compares each
   with plain PyTorch. Rows are divided among PyTorch's OpenMP threads. */

#include <stdint.h>
#include <string.h>

#if defined(__AMX_BF16__) && defined(__AMX_INT8__) && defined(__AMX_TILE__) && defined(__AVX512BF16__)
#define TILES
#include <immintrin.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

static inline float widen(uint16_t half)
{
    uint32_t bits = (uint32_t)half << 16;
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

/* float32 -> bfloat16, to nearest even; NaN stays NaN. */
static inline uint16_t narrow(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, 4);
    uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return x == x ? (uint16_t)rounded : 0x7fc0;
}

/* e^x to about 2 units in the last place for x <= 0; at least 1e-38, never denormal. NaN stays NaN.
   Cody and Waite's reduction to |r| <= ln2 / 2, then a polynomial; branch-free, so that compilers vectorize it. */
static inline float exponential(float x)
{
    x = x < -87.0f ? -87.0f : x;
    float n = x * 1.44269504f + 12582912.0f; /* 1.5 * 2^23: adding it rounds to a whole number */
    int32_t exponent;
    memcpy(&exponent, &n, 4);
    exponent = (exponent - 0x4b400000 + 127) << 23;
    n -= 12582912.0f;
    float r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float y = 1.9875691500e-4f;
    y = y * r + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * r * r + r + 1.0f;
    float power;
    memcpy(&power, &exponent, 4);
    return y * power;
}

/* (rows, width) bfloat16 logits; ids from `vocab` on are padding. nats[i] = -log p(target), or 0 if the target is
   negative (ignored). With `gradient`, logits are overwritten by d nats / d logits, zero from `vocab` on and in ignored
   rows. A row stays in the core's cache through its passes. */
void cross_entropy(uint16_t *logits, const int64_t *targets, float *nats, int64_t rows, int64_t width, int64_t vocab,
                   int64_t gradient)
{
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < rows; i++) {
        uint16_t *row = logits + i * width;
        int64_t target = targets[i];
        if (target < 0 || target >= vocab) {
            nats[i] = target < 0 ? 0.0f : __builtin_inff(); /* padding has probability 0 */
            if (gradient)
                memset(row, 0, (size_t)width * 2);
            continue;
        }
        float highest = -__builtin_inff(), sum = 0.0f;
#pragma omp simd reduction(max : highest)
        for (int64_t j = 0; j < vocab; j++) {
            float x = widen(row[j]);
            highest = x > highest ? x : highest;
        }
#pragma omp simd reduction(+ : sum)
        for (int64_t j = 0; j < vocab; j++)
            sum += exponential(widen(row[j]) - highest);
        nats[i] = __builtin_logf(sum) + highest - widen(row[target]);
        if (!gradient)
            continue;
        float p_target = exponential(widen(row[target]) - highest) / sum, share = 1.0f / sum;
#pragma omp simd
        for (int64_t j = 0; j < vocab; j++)
            row[j] = narrow(exponential(widen(row[j]) - highest) * share);
        row[target] = narrow(p_target - 1.0f);
        memset(row + vocab, 0, (size_t)(width - vocab) * 2);
    }
}

/* GPT-2's GELU, x / 2 (1 + tanh u), is x sigmoid(2u). */
static inline float gelu_slope(float x, float *sigmoid)
{
    float square = x * x, z = 1.59576912f * x * (1.0f + 0.044715f * square), e = exponential(z < 0.0f ? z : -z);
    float s = (z < 0.0f ? e : 1.0f) / (1.0f + e);
    *sigmoid = s;
    return s + x * s * (1.0f - s) * 1.59576912f * (1.0f + 0.134145f * square);
}

/* n bfloat16 values x -> gelu(x) */
void gelu(const uint16_t *x, uint16_t *y, int64_t n)
{
#pragma omp parallel for simd schedule(static)
    for (int64_t i = 0; i < n; i++) {
        float value = widen(x[i]), sigmoid;
        gelu_slope(value, &sigmoid);
        y[i] = narrow(value * sigmoid);
    }
}

/* d loss / d gelu(x) -> d loss / d x */
void gelu_backward(const uint16_t *grad, const uint16_t *x, uint16_t *out, int64_t n)
{
#pragma omp parallel for simd schedule(static)
    for (int64_t i = 0; i < n; i++) {
        float sigmoid, slope = gelu_slope(widen(x[i]), &sigmoid);
        out[i] = narrow(widen(grad[i]) * slope);
    }
}

/* The backward pass of causal attention in bfloat16 on CPUs with AMX, where PyTorch reaches a tenth of the hardware's
   speed. Dao 2023, "FlashAttention-2", algorithm 2: scores are recomputed in blocks of 64 keys by 64 queries. All blocks
   are transposed, keys by queries, so that probabilities have the layout that the next products need.

   AMX tiles are 16 rows of 64 bytes: A holds 16 x 32 bfloat16, C 16 x 16 float32, and B 32 x 16 bfloat16 as 16 rows of
   pairs: two successive rows of the matrix, interleaved. */

#ifdef TILES

enum { BLOCK = 64, TILE = 16 };

/* Tiles have 16 rows of 64 bytes; tiles of B and C have rows of `columns` times 4 bytes. */
static inline void configure(int64_t columns)
{
    struct {
        uint8_t palette, start, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } tiles __attribute__((aligned(64))) = {.palette = 1};
    for (int tile = 0; tile < 8; tile++) {
        tiles.bytes[tile] = tile == 4 || tile == 5 ? 64 : (uint16_t)(4 * columns);
        tiles.rows[tile] = TILE;
    }
    _tile_loadconfig(&tiles);
}

/* C (32 x 32) = or += A (32 x 32 steps) B. Strides in bytes. */
static inline void product(const void *a, long lda, const void *b, long ldb, float *c, long ldc, int steps, int add)
{
    char *c1 = (char *)c, *c2 = c1 + 16 * ldc;
    if (add) {
        _tile_loadd(0, c1, ldc);
        _tile_loadd(1, c1 + 64, ldc);
        _tile_loadd(2, c2, ldc);
        _tile_loadd(3, c2 + 64, ldc);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int step = 0; step < steps; step++) {
        const char *rows = (const char *)a + 64 * step, *pairs = (const char *)b + 16 * ldb * step;
        _tile_loadd(4, rows, lda);
        _tile_loadd(5, rows + 16 * lda, lda);
        _tile_loadd(6, pairs, ldb);
        _tile_loadd(7, pairs + 64, ldb);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, c1, ldc);
    _tile_stored(1, c1 + 64, ldc);
    _tile_stored(2, c2, ldc);
    _tile_stored(3, c2 + 64, ldc);
}

/* A (B, H, T, D) tensor: its first value, and its strides in B, H and T. */
struct tensor {
    const void *values;
    int64_t b, h, t;
};

/* One head: rows of D values with the strides in `of` -> the gradients of q, k and v, with row stride `out`. */
static void head(const uint16_t *q, const uint16_t *k, const uint16_t *v, const uint16_t *y, const uint16_t *dy,
                 const float *lse, const struct tensor *of, uint16_t *dq, uint16_t *dk, uint16_t *dv, long out, long T,
                 long D, float scale, char *room)
{
    long blocks = (T + BLOCK - 1) / BLOCK, P = blocks * BLOCK, half = D / 2;
    uint16_t *K = (uint16_t *)room, *V = K + P * D, *KT = V + P * D; /* (P, D), (P, D), blocks of (D, 64) */
    uint32_t *QT = (uint32_t *)(KT + P * D), *OT = QT + P * half;    /* blocks of (D/2, 64) pairs along D */
    uint32_t *Q2 = OT + P * half, *O2 = Q2 + P * half;               /* (P/2, D) pairs of rows */
    float *dQT = (float *)(O2 + P * half), *dK = dQT + P * D, *dV = dK + BLOCK * D; /* blocks of (D, 64); (64, D) */
    float *S = dV + BLOCK * D, *G = S + BLOCK * BLOCK, *L = G + BLOCK * BLOCK, *delta = L + P;
    uint16_t *PT = (uint16_t *)(delta + P), *GT = PT + BLOCK * BLOCK; /* (64 keys, 64 queries) */
    uint32_t *G2 = (uint32_t *)(GT + BLOCK * BLOCK);                  /* (32 pairs of keys, 64 queries) */

    memset(room, 0, (size_t)((char *)dK - room));
    for (long t = 0; t < T; t++) {
        const uint16_t *qt = q + t * of[0].t, *kt = k + t * of[1].t, *yt = y + t * of[3].t, *ot = dy + t * of[4].t;
        long block = t / BLOCK, at = t % BLOCK, shift = 16 * (t & 1);
        memcpy(K + t * D, kt, (size_t)D * 2);
        memcpy(V + t * D, v + t * of[2].t, (size_t)D * 2);
        float sum = 0.0f;
        for (long d = 0; d < D; d++) {
            KT[(block * D + d) * BLOCK + at] = kt[d];
            Q2[(t / 2) * D + d] |= (uint32_t)qt[d] << shift;
            O2[(t / 2) * D + d] |= (uint32_t)ot[d] << shift;
            sum += widen(ot[d]) * widen(yt[d]);
        }
        for (long d = 0; d < half; d++) {
            memcpy(&QT[(block * half + d) * BLOCK + at], qt + 2 * d, 4);
            memcpy(&OT[(block * half + d) * BLOCK + at], ot + 2 * d, 4);
        }
        delta[t] = sum;
        L[t] = lse[t * of[5].t];
    }
    for (long t = T; t < P; t++) {
        delta[t] = 0.0f;
        L[t] = 3e38f; /* probability 0 */
    }

    for (long j = 0; j < blocks; j++) {
        memset(dK, 0, (size_t)(2 * BLOCK * D) * 4);
        for (long i = j; i < blocks; i++) {
            const uint32_t *qt = QT + i * half * BLOCK, *ot = OT + i * half * BLOCK;
            for (int r = 0; r < BLOCK; r += 32)
                for (int c = 0; c < BLOCK; c += 32) {
                    product(K + (j * BLOCK + r) * D, 2 * D, qt + c, 4 * BLOCK, S + r * BLOCK + c, 4 * BLOCK, D / 32, 0);
                    product(V + (j * BLOCK + r) * D, 2 * D, ot + c, 4 * BLOCK, G + r * BLOCK + c, 4 * BLOCK, D / 32, 0);
                }
            const float *l = L + i * BLOCK, *e = delta + i * BLOCK;
            for (int r = 0; r < BLOCK; r += 2) {
                float p[2][BLOCK], g[2][BLOCK];
                for (int h = 0; h < 2; h++) {
                    const float *s = S + (r + h) * BLOCK, *dp = G + (r + h) * BLOCK;
                    int first = i == j ? r + h : 0; /* a key is masked for earlier queries */
#pragma omp simd
                    for (int c = 0; c < BLOCK; c++) {
                        float x = c < first ? 0.0f : exponential(s[c] * scale - l[c]);
                        p[h][c] = x;
                        g[h][c] = x * (dp[c] - e[c]) * scale;
                    }
                    for (int c = 0; c < BLOCK; c += 32) {
                        __m512bh x = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(p[h] + c + 16), _mm512_loadu_ps(p[h] + c));
                        __m512bh z = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(g[h] + c + 16), _mm512_loadu_ps(g[h] + c));
                        _mm512_storeu_si512(PT + (r + h) * BLOCK + c, (__m512i)x);
                        _mm512_storeu_si512(GT + (r + h) * BLOCK + c, (__m512i)z);
                    }
                }
                const uint16_t *even = GT + r * BLOCK, *odd = even + BLOCK;
#pragma omp simd
                for (int c = 0; c < BLOCK; c++)
                    G2[(r / 2) * BLOCK + c] = (uint32_t)even[c] | (uint32_t)odd[c] << 16;
            }
            for (long c = 0; c < D; c += 32) {
                for (int r = 0; r < BLOCK; r += 32) {
                    product(PT + r * BLOCK, 2 * BLOCK, O2 + i * (BLOCK / 2) * D + c, 4 * D, dV + r * D + c, 4 * D, 2, 1);
                    product(GT + r * BLOCK, 2 * BLOCK, Q2 + i * (BLOCK / 2) * D + c, 4 * D, dK + r * D + c, 4 * D, 2, 1);
                    product(KT + (j * D + c) * BLOCK, 2 * BLOCK, G2 + r, 4 * BLOCK, dQT + (i * D + c) * BLOCK + r,
                            4 * BLOCK, 2, 1);
                }
            }
        }
        long rows = T - j * BLOCK < BLOCK ? T - j * BLOCK : BLOCK;
        for (long r = 0; r < rows; r++)
            for (long d = 0; d < D; d++) {
                dk[(j * BLOCK + r) * out + d] = narrow(dK[r * D + d]);
                dv[(j * BLOCK + r) * out + d] = narrow(dV[r * D + d]);
            }
    }
    for (long t = 0; t < T; t++)
        for (long d = 0; d < D; d++)
            dq[t * out + d] = narrow(dQT[((t / BLOCK) * D + d) * BLOCK + t % BLOCK]);
}

/* Ask the operating system for permission to use AMX tiles, required once per process. */
int64_t tiles_ready(void)
{
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

/* `of`: q, k, v, y and its gradient in bfloat16, and log-sum-exp in float32. dq, dk, dv are (B, T, H, D).
   -> 0, or 1 if out of memory. */
int64_t attention_backward(const struct tensor *of, uint16_t *dq, uint16_t *dk, uint16_t *dv, int64_t B, int64_t T,
                           int64_t H, int64_t D)
{
    long C = H * D, P = (T + BLOCK - 1) / BLOCK * BLOCK;
    size_t room = (size_t)(P * D * (7 * 2 + 4) + 2 * BLOCK * D * 4 + BLOCK * BLOCK * (2 * 4 + 3 * 2 + 2) + 2 * P * 4 + 64);
    float scale = 1.0f / __builtin_sqrtf((float)D);
    int64_t failed = 0;
#pragma omp parallel
    {
        configure(TILE);
        char *mine = aligned_alloc(64, (room + 63) / 64 * 64);
        if (!mine) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(dynamic)
        for (long n = 0; n < B * H; n++) {
            if (!mine)
                continue;
            long b = n / H, h = n % H, to = (b * T * H + h) * D;
            const uint16_t *at[5];
            for (int each = 0; each < 5; each++)
                at[each] = (const uint16_t *)of[each].values + b * of[each].b + h * of[each].h;
            const float *lse = (const float *)of[5].values + b * of[5].b + h * of[5].h;
            head(at[0], at[1], at[2], at[3], at[4], lse, of, dq + to, dk + to, dv + to, C, T, D, scale, mine);
        }
        free(mine);
        _tile_release();
    }
    return failed;
}

/* A few rows times a matrix, as in generation. Reading the matrix dominates the time, so it is read once, in memory
   order: its rows are A, and x transposed is B, where the four bytes of a column are two bfloat16 or four int8. */

/* 32 successive values of each of m rows -> 16 rows of B with stride `apart`. */
static void halves(const uint16_t *x, int64_t m, int64_t k, char *to, int64_t apart)
{
    for (int64_t j = 0; j < m; j++)
        for (int64_t i = 0; i < 32; i += 2)
            memcpy(to + i / 2 * apart + 4 * j, x + j * k + i, 4);
}

/* 64 successive values as two int8 columns each: x = scale (first + second / 254), 16 bits relative to the row's maximum. */
static void eights(const uint16_t *x, const float *scale, int64_t m, int64_t k, char *to, int64_t apart)
{
    for (int64_t j = 0; j < m; j++) {
        int8_t parts[2][64];
        float share = 1.0f / scale[j];
        for (int i = 0; i < 64; i++) {
            float value = widen(x[j * k + i]) * share, first = __builtin_rintf(value);
            parts[0][i] = (int8_t)first;
            parts[1][i] = (int8_t)__builtin_rintf((value - first) * 254.0f);
        }
        for (int i = 0; i < 64; i += 4) {
            memcpy(to + i / 4 * apart + 8 * j, parts[0] + i, 4);
            memcpy(to + i / 4 * apart + 8 * j + 4, parts[1] + i, 4);
        }
    }
}

/* max |x| / 127 of k values; NaN, whose bits compare as the largest, stays NaN. */
static float scale_of(const uint16_t *x, int64_t k)
{
    uint16_t largest = 1;
#pragma omp simd reduction(max : largest)
    for (int64_t i = 0; i < k; i++)
        largest = (x[i] & 0x7fff) > largest ? x[i] & 0x7fff : largest;
    return largest < 0x0080 ? 1e-30f : widen(largest) / 127.0f;
}

union sums { /* products of 32 rows of the matrix with 32 columns of B */
    float of_halves[32][32];
    int32_t of_eights[32][32];
};

/* 32 rows of the matrix (16 if not `both`) of `bytes` each times 16 columns of B (32 if `wider`). */
static inline void strip(const char *w, int64_t bytes, int both, const char *b, int64_t apart, int wider, int of_eights,
                         union sums *sums)
{
    const char *w2 = both ? w + TILE * bytes : w;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t at = 0; at < bytes; at += 64) {
        const char *columns = b + at / 4 * apart;
        _tile_loadd(4, w + at, bytes);
        _tile_loadd(5, w2 + at, bytes);
        _tile_loadd(6, columns, apart);
        if (of_eights) {
            _tile_dpbssd(0, 4, 6);
            _tile_dpbssd(2, 5, 6);
        } else {
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(2, 5, 6);
        }
        if (!wider)
            continue;
        _tile_loadd(7, columns + 64, apart);
        if (of_eights) {
            _tile_dpbssd(1, 4, 7);
            _tile_dpbssd(3, 5, 7);
        } else {
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(3, 5, 7);
        }
    }
    _tile_stored(0, &sums->of_eights[0][0], 128);
    _tile_stored(2, &sums->of_eights[16][0], 128);
    if (wider) {
        _tile_stored(1, &sums->of_eights[0][16], 128);
        _tile_stored(3, &sums->of_eights[16][16], 128);
    }
}

/* y (m, n) = x (m, k) times the transpose of (n, k) w, plus n biases unless `bias` is NULL. w is int8 if its rows have
   `scales`, else bfloat16; everything else is bfloat16. n is a multiple of 16; a row of w is a multiple of 64 bytes.
   -> 0, or 1 if out of memory. */
int64_t small_batch_matmul(const uint16_t *x, const char *w, const float *scales, const uint16_t *bias, uint16_t *y,
                           int64_t m, int64_t n, int64_t k)
{
    int64_t each = scales ? 2 : 1, columns = m * each, bytes = scales ? k : 2 * k;
    int64_t width = columns < TILE ? columns : (columns + TILE - 1) / TILE * TILE, apart = 4 * width;
    char *b = aligned_alloc(64, (size_t)(bytes / 4 * apart + 4 * m + 63) / 64 * 64);
    if (!b)
        return 1;
    float *scale = (float *)(b + bytes / 4 * apart);
#pragma omp parallel
    {
        union sums sums __attribute__((aligned(64)));
        configure(width < TILE ? width : TILE);
        if (scales) {
#pragma omp for schedule(static)
            for (int64_t j = 0; j < m; j++)
                scale[j] = scale_of(x + j * k, k);
        }
#pragma omp for schedule(static)
        for (int64_t at = 0; at < bytes; at += 64)
            if (scales)
                eights(x + at, scale, m, k, b + at / 4 * apart, apart);
            else
                halves(x + at / 2, m, k, b + at / 4 * apart, apart);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < n; i += 32) {
            int64_t rows = n - i < 32 ? 16 : 32;
            float plus[32] = {0}, times[32];
            for (int64_t r = 0; r < rows; r++) {
                plus[r] = bias ? widen(bias[i + r]) : 0.0f;
                times[r] = scales ? scales[i + r] : 1.0f;
            }
            for (int64_t at = 0; at < columns; at += 32) {
                int64_t end = (at + 32 < columns ? at + 32 : columns) / each;
                strip(w + i * bytes, bytes, rows == 32, b + 4 * at, apart, columns - at > TILE, scales != NULL, &sums);
                for (int64_t j = at / each; j < end; j++) {
                    int64_t c = j * each - at;
                    uint16_t *to = y + j * n + i;
                    if (scales) {
                        for (int64_t r = 0; r < rows; r++) {
                            float sum = (float)sums.of_eights[r][c] + (float)sums.of_eights[r][c + 1] * (1.0f / 254.0f);
                            to[r] = narrow(sum * scale[j] * times[r] + plus[r]);
                        }
                    } else {
                        for (int64_t r = 0; r < rows; r++)
                            to[r] = narrow(sums.of_halves[r][c] + plus[r]);
                    }
                }
            }
        }
        _tile_release();
    }
    free(b);
    return 0;
}

#else

int64_t tiles_ready(void)
{
    return 0;
}

#endif
