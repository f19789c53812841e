/* The sparse half of a training step for a CPU: what follows the encoder product, without a copy of any row.
 *
 *     pre --(top_of_rows | count_above, take_above)--> entries (token, latent, value), ordered by token
 *     entries --(sum_rows over tokens)--> x_hat        entries --(rebuild)--> x_hat, error, d value in one pass
 *     entries --(by_latent)--> order by latent --(sum_rows over latents)--> both weight gradients
 *
 * Compiled by fovea.sae.native_build where it runs, for the processor that it runs on. Every element of a result is
 * computed by one thread in a fixed order: no result depends on the number of threads or on which of them was first.
 * Matrices are row-major and dense; `threads` is what torch uses.
 */

#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef __AVX__
#include <immintrin.h>
#endif
#if defined __AVX2__ && defined __BMI2__
#define COMPRESS
#endif

typedef float v8 __attribute__((vector_size(32), aligned(4)));
typedef int64_t i64;
int omp_get_thread_num(void);
#define INLINE static inline __attribute__((always_inline))
#define EACH(i, n) for (i64 i = 0; i < (n); i++)

INLINE v8 all(float value) { return (v8){value, value, value, value, value, value, value, value}; }

/* ------------------------------------------------------------------ sums of rows */

#define AHEAD 16 /* entries whose rows are on their way from memory */

/* Adds to 64 columns of `out` the sum over entries of value times a row. Eight variables and no array: so they stay in
 * registers. */
static void add_64(const i64 *index, const float *value, i64 n, const float *rows, i64 width, float *out)
{
    v8 *sum = (v8 *)out, a = sum[0], b = sum[1], c = sum[2], d = sum[3], e = sum[4], f = sum[5], g = sum[6], h = sum[7];
    EACH(i, n) {
        const v8 *row = (const v8 *)(rows + index[i] * width);
        const char *later = (const char *)(rows + index[i + AHEAD < n ? i + AHEAD : n - 1] * width);
        __builtin_prefetch(later);
        __builtin_prefetch(later + 64);
        __builtin_prefetch(later + 128);
        __builtin_prefetch(later + 192);
        v8 v = all(value[i]);
        a += v * row[0], b += v * row[1], c += v * row[2], d += v * row[3];
        e += v * row[4], f += v * row[5], g += v * row[6], h += v * row[7];
    }
    sum[0] = a, sum[1] = b, sum[2] = c, sum[3] = d, sum[4] = e, sum[5] = f, sum[6] = g, sum[7] = h;
}

static void add_rows(const i64 *index, const float *value, i64 n, const float *rows, i64 width, i64 columns, float *out)
{
    i64 c = 0;
    for (; c + 64 <= columns; c += 64) add_64(index, value, n, rows + c, width, out + c);
    for (; c + 8 <= columns; c += 8) {
        v8 sum = *(v8 *)(out + c);
        EACH(i, n) sum += value[i] * *(const v8 *)(rows + index[i] * width + c);
        *(v8 *)(out + c) = sum;
    }
    for (; c < columns; c++) EACH(i, n) out[c] += value[i] * rows[index[i] * width + c];
}

#define AT_ONCE 256 /* values that are brought into order at a time */

/* Per group, the sum over its entries (offsets[g] to offsets[g + 1]) of value times the row at index. The value of entry
 * e is value[order[e]], or value[e] where order is null. Whole rows at a time: strips of columns that fit a core's own
 * cache were slower, for every strip reads all entries again. */
void sum_rows(const i64 *offsets, const i64 *index, const i64 *order, const float *value, i64 groups, const float *rows,
              i64 width, float *out, i64 threads)
{
#pragma omp parallel for schedule(dynamic, 8) num_threads(threads)
    EACH(g, groups) {
        float ordered[AT_ONCE];
        memset(out + g * width, 0, sizeof(float) * width);
        for (i64 e = offsets[g], n; e < offsets[g + 1]; e += n) {
            n = offsets[g + 1] - e < AT_ONCE ? offsets[g + 1] - e : AT_ONCE;
            if (order) EACH(i, n) ordered[i] = value[order[e + i]];
            add_rows(index + e, order ? ordered : value + e, n, rows, width, width, out + g * width);
        }
    }
}

/* ------------------------------------------------------------------ inner products */

INLINE float total(v8 v) { return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7])); }

/* Of four rows at a time with one, which is then read once for the four. */
static void products(const float *left, const i64 *index, i64 n, const float *rows, i64 width, float *out)
{
    for (i64 e = 0; e < n; e += 4) {
        const float *row[4];
        EACH(i, 4) row[i] = rows + index[e + i < n ? e + i : n - 1] * width;
        v8 sum[4] = {{0}};
        i64 c = 0;
        for (; c + 8 <= width; c += 8) EACH(i, 4) sum[i] += *(const v8 *)(left + c) * *(const v8 *)(row[i] + c);
        EACH(i, n - e < 4 ? n - e : 4) {
            float tail = 0;
            for (i64 j = c; j < width; j++) tail += left[j] * row[i][j];
            out[e + i] = total(sum[i]) + tail;
        }
    }
}

/* Per entry of a token, the inner product of the token's row of `left` and the row at index. */
void sampled_product(const i64 *offsets, const i64 *index, i64 tokens, const float *left, const float *rows, i64 width,
                     float *out, i64 threads)
{
#pragma omp parallel for schedule(dynamic, 32) num_threads(threads)
    EACH(t, tokens)
    {
        i64 e = offsets[t];
        products(left + t * width, index + e, offsets[t + 1] - e, rows, width, out + e);
    }
}

/* Per token: x_hat = bias + sum of value times row; error = x_hat - sign * target; the square of its length; and per
 * entry the inner product of error and its row, while the rows are still in the cache. bias and x_hat may be null. */
void rebuild(const i64 *offsets, const i64 *index, const float *value, i64 tokens, const float *rows, i64 width,
             const float *bias, const float *target, float sign, float *x_hat, float *error, float *square,
             float *inner, i64 threads)
{
#pragma omp parallel for schedule(dynamic, 32) num_threads(threads)
    EACH(t, tokens)
    {
        i64 e = offsets[t], n = offsets[t + 1] - e, c = 0;
        float *own = error + t * width, tail = 0;
        if (bias) memcpy(own, bias, sizeof(float) * width);
        else memset(own, 0, sizeof(float) * width);
        add_rows(index + e, value + e, n, rows, width, width, own);
        if (x_hat) memcpy(x_hat + t * width, own, sizeof(float) * width);
        v8 squares = {0};
        for (; c + 8 <= width; c += 8) {
            v8 part = *(v8 *)(own + c) - sign * *(const v8 *)(target + t * width + c);
            *(v8 *)(own + c) = part;
            squares += part * part;
        }
        for (; c < width; c++) {
            own[c] -= sign * target[t * width + c];
            tail += own[c] * own[c];
        }
        square[t] = total(squares) + tail;
        products(own, index + e, n, rows, width, inner + e);
    }
}

/* ------------------------------------------------------------------ order by latent */

/* A counting sort: offsets[d_sae + 1] per latent, and for each place the entry that belongs there and its token. */
void by_latent(const i64 *latents, const i64 *tokens, i64 n, i64 d_sae, i64 *offsets, i64 *order, i64 *sorted_tokens)
{
    i64 *next = offsets + 1; /* filled as where the next entry of a latent goes, ends as where the latent's end */
    memset(offsets, 0, sizeof(i64) * (d_sae + 1));
    EACH(e, n) next[latents[e]]++;
    i64 begin = 0;
    EACH(l, d_sae) {
        i64 count = next[l];
        next[l] = begin;
        begin += count;
    }
    EACH(e, n) {
        i64 place = next[latents[e]]++;
        order[place] = e;
        sorted_tokens[place] = tokens[e];
    }
}

/* Per latent, the sum of the values of its entries. */
void sum_values(const i64 *offsets, const i64 *order, const float *value, i64 d_sae, float *out)
{
    EACH(l, d_sae) {
        float sum = 0;
        for (i64 e = offsets[l]; e < offsets[l + 1]; e++) sum += value[order[e]];
        out[l] = sum;
    }
}

/* ------------------------------------------------------------------ choice */

/* Eight pre-activations: products and, unless that is null, a bias. */
INLINE v8 eight(const float *product, const float *bias, i64 c)
{
    v8 value = *(const v8 *)(product + c);
    return bias ? value + *(const v8 *)(bias + c) : value;
}

/* Bit j: value j of eight exceeds its floor. NaN exceeds nothing. */
INLINE unsigned exceeding(v8 value, v8 floor)
{
#ifdef __AVX__
    return _mm256_movemask_ps(_mm256_cmp_ps((__m256)value, (__m256)floor, _CMP_GT_OQ));
#else
    unsigned bits = 0;
    for (int j = 0; j < 8; j++) bits |= (unsigned)(value[j] > floor[j]) << j;
    return bits;
#endif
}

/* What k of n >= k positive floats reach and no more, or their k-th largest if others equal it. Given and returned as
 * bits, which have the same order. */
static int32_t kth_largest(const int32_t *bits, i64 n, i64 k)
{
    int32_t common = -1, any = 0;
    EACH(i, n) common &= bits[i], any |= bits[i];
    int32_t differing = common ^ any;
    if (!differing) return common;
    int bit = 31 - __builtin_clz((unsigned)differing);
    int32_t cut = common & -((int32_t)1 << bit); /* what all have above the first bit that differs */
    for (; bit >= 0; bit--) {
        int32_t trial = cut | (int32_t)1 << bit, reached = 0;
        EACH(i, n) reached += bits[i] >= trial;
        if (reached >= k) cut = trial;
        if (reached == k) break;
    }
    return cut;
}

/* Keep the k largest of n > k candidates, in order; of equal ones the first. Returns what they reach. */
static int32_t keep_largest(int32_t *bits, int32_t *column, i64 n, i64 k)
{
    int32_t cut = kth_largest(bits, n, k);
    i64 ties = k, kept = 0;
    EACH(i, n) ties -= bits[i] > cut;
    EACH(i, n) {
        int keep = bits[i] > cut || (bits[i] == cut && ties-- > 0);
        bits[kept] = bits[i];
        column[kept] = column[i];
        kept += keep;
    }
    return cut;
}

/* Append those of eight values that exceed floor, and their columns from c on; up to eight places are written. */
INLINE i64 append(v8 value, int32_t c, float floor, int32_t *bits, int32_t *column, i64 n)
{
#ifdef COMPRESS
    unsigned found = exceeding(value, all(floor));
    /* byte i of `chosen`: which of the eight comes i-th */
    uint64_t chosen = _pext_u64(0x0706050403020100, _pdep_u64(found, 0x0101010101010101) * 0xff);
    __m256i which = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)chosen));
    __m256i packed = _mm256_permutevar8x32_epi32((__m256i)value, which);
    _mm256_storeu_si256((__m256i *)(bits + n), packed);
    _mm256_storeu_si256((__m256i *)(column + n), _mm256_add_epi32(which, _mm256_set1_epi32(c)));
    return n + __builtin_popcount(found);
#else
    for (int j = 0; j < 8; j++) {
        float one = value[j];
        memcpy(bits + n, &one, 4);
        column[n] = c + j;
        n += one > floor;
    }
    return n;
#endif
}

/* Candidates above floor, pruned to k whenever room is short; k or fewer remain, in order. */
static i64 top_of_row(const float *row, const float *bias, i64 columns, i64 k, float floor, i64 room, int32_t *bits,
                      int32_t *column)
{
    i64 n = 0, c = 0;
    for (; c + 32 <= columns; c += 32) {
        unsigned any = 0;
        v8 value[4];
        EACH(i, 4) any |= exceeding(value[i] = eight(row, bias, c + 8 * i), all(floor));
        if (!any) continue;
        EACH(i, 4) n = append(value[i], c + 8 * i, floor, bits, column, n);
        if (n + 40 > room) {
            int32_t cut = keep_largest(bits, column, n, k);
            memcpy(&floor, &cut, 4); /* what equals it later comes after the k that are held */
            n = k;
        }
    }
    for (; c < columns; c++) {
        float value = bias ? row[c] + bias[c] : row[c];
        memcpy(bits + n, &value, 4);
        column[n] = c;
        n += value > floor;
    }
    if (n > k) keep_largest(bits, column, n, k);
    return n < k ? n : k;
}

/* The k largest positive pre-activations of each row, ascending by column, in slots of k; count says how many there are.
 * Of equal values the first column wins. A row begins with a guess from the row before; a wrong one costs time only.
 * scratch: for each thread 2 * room, room being at least k + 80. */
void top_of_rows(const float *product, const float *bias, i64 rows, i64 columns, i64 k, int32_t *scratch, i64 room,
                 i64 *latents, float *values, i64 *count, i64 threads)
{
#pragma omp parallel num_threads(threads)
    {
        int32_t *bits = scratch + omp_get_thread_num() * 2 * room, *column = bits + room;
        float guess = 0;
#pragma omp for schedule(static)
        EACH(r, rows)
        {
            const float *row = product + r * columns;
            i64 n = top_of_row(row, bias, columns, k, guess, room, bits, column);
            if (n < k && guess > 0) n = top_of_row(row, bias, columns, k, 0, room, bits, column);
            float least = INFINITY;
            EACH(i, n) {
                float value;
                memcpy(&value, bits + i, 4);
                latents[r * k + i] = column[i];
                values[r * k + i] = value;
                least = value < least ? value : least;
            }
            count[r] = n;
            guess = n < k ? 0 : 0.8f * least;
        }
    }
}

/* Per row, how many pre-activations exceed floor: one for all columns, or one each. */
void count_above(const float *product, const float *bias, i64 rows, i64 columns, const float *floor, i64 per_column,
                 i64 *count, i64 threads)
{
#pragma omp parallel for schedule(static) num_threads(threads)
    EACH(r, rows)
    {
        const float *row = product + r * columns;
        i64 n = 0, c = 0;
        for (; c + 8 <= columns; c += 8)
            n += __builtin_popcount(
                exceeding(eight(row, bias, c), per_column ? *(const v8 *)(floor + c) : all(*floor)));
        for (; c < columns; c++) n += (bias ? row[c] + bias[c] : row[c]) > floor[per_column ? c : 0];
        count[r] = n;
    }
}

/* What count_above counted, row r from place offsets[r] on. */
void take_above(const float *product, const float *bias, i64 rows, i64 columns, const float *floor, i64 per_column,
                const i64 *offsets, i64 first_token, i64 *tokens, i64 *latents, float *values, i64 threads)
{
#pragma omp parallel for schedule(static) num_threads(threads)
    EACH(r, rows)
    {
        const float *row = product + r * columns;
        i64 e = offsets[r];
        for (i64 c = 0; c < columns; c += 8) {
            float value[8];
            unsigned found = 0;
            if (c + 8 <= columns) {
                v8 pre = eight(row, bias, c);
                memcpy(value, &pre, sizeof value);
                found = exceeding(pre, per_column ? *(const v8 *)(floor + c) : all(*floor));
            } else {
                for (i64 j = c; j < columns; j++) {
                    value[j - c] = bias ? row[j] + bias[j] : row[j];
                    found |= (unsigned)(value[j - c] > floor[per_column ? j : 0]) << (j - c);
                }
            }
            for (; found; found &= found - 1, e++) {
                i64 place = __builtin_ctz(found);
                tokens[e] = first_token + r;
                latents[e] = c + place;
                values[e] = value[place];
            }
        }
    }
}

/* The entries in slots of k, of which count[r] are filled, one after the other; offsets has room for rows + 1. */
void compact(const i64 *slot_latents, const float *slot_values, const i64 *count, i64 rows, i64 k, i64 *offsets,
             i64 *tokens, i64 *latents, float *values)
{
    i64 e = 0;
    offsets[0] = 0;
    EACH(r, rows) {
        EACH(i, count[r]) {
            tokens[e] = r;
            latents[e] = slot_latents[r * k + i];
            values[e++] = slot_values[r * k + i];
        }
        offsets[r + 1] = e;
    }
}

/* In place: the k largest of n > k positive entries, in order; of equal ones the first. */
void keep_largest_entries(i64 *tokens, i64 *latents, float *values, i64 n, i64 k)
{
    const int32_t *bits = (const int32_t *)values;
    int32_t cut = kth_largest(bits, n, k);
    i64 ties = k, kept = 0;
    EACH(i, n) ties -= bits[i] > cut;
    EACH(i, n) {
        int keep = bits[i] > cut || (bits[i] == cut && ties-- > 0);
        tokens[kept] = tokens[i];
        latents[kept] = latents[i];
        values[kept] = values[i];
        kept += keep;
    }
}

/* ------------------------------------------------------------------ gates, while most are open */

#define STRIP 64 /* columns that a thread sums down at a time */

/* gate = product + b_gate opens where positive; a latent is product * gain + b_mag, if that is positive and its gate
 * open. Per column, the sum of the open gates and the number of latents that fire. */
void gates(const float *product, const float *b_gate, const float *gain, const float *b_mag, i64 rows, i64 columns,
           float *latents, float *open, float *sum_open, float *n_fired, i64 threads)
{
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (i64 first = 0; first < columns; first += STRIP) {
        i64 width = columns - first < STRIP ? columns - first : STRIP;
        float opened[STRIP] = {0}, fired[STRIP] = {0};
        EACH(r, rows) {
            i64 at = r * columns + first;
#pragma omp simd
            EACH(c, width)
            {
                float gate = product[at + c] + b_gate[first + c];
                float latent = product[at + c] * gain[first + c] + b_mag[first + c];
                gate = gate <= 0 ? 0 : gate; /* NaN stays, so that the loss shows it */
                latent = (latent > 0) & (gate > 0) ? latent : 0;
                open[at + c] = gate;
                latents[at + c] = latent;
                opened[c] += gate;
                fired[c] += latent > 0 ? 1.0f : 0.0f;
            }
        }
        memcpy(sum_open + first, opened, sizeof(float) * width);
        memcpy(n_fired + first, fired, sizeof(float) * width);
    }
}

/* The gradients of `gates`, from those of its latents, open gates and sums: d_product, and per column the others. */
void gates_backward(const float *product, const float *latents, const float *open, const float *gain,
                    const float *d_latents, const float *d_open, const float *d_sum, i64 rows, i64 columns,
                    float *d_product, float *d_b_gate, float *d_gain, float *d_b_mag, i64 threads)
{
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (i64 first = 0; first < columns; first += STRIP) {
        i64 width = columns - first < STRIP ? columns - first : STRIP;
        float of_gate[STRIP] = {0}, of_gain[STRIP] = {0}, of_mag[STRIP] = {0};
        EACH(r, rows) {
            i64 at = r * columns + first;
#pragma omp simd
            EACH(c, width)
            {
                float d_gate = d_open[at + c] + d_sum[first + c], d_mag = d_latents[at + c];
                d_gate = open[at + c] > 0 ? d_gate : 0;
                d_mag = latents[at + c] > 0 ? d_mag : 0;
                d_product[at + c] = d_mag * gain[first + c] + d_gate;
                of_gate[c] += d_gate;
                of_gain[c] += d_mag * product[at + c];
                of_mag[c] += d_mag;
            }
        }
        memcpy(d_b_gate + first, of_gate, sizeof(float) * width);
        memcpy(d_gain + first, of_gain, sizeof(float) * width);
        memcpy(d_b_mag + first, of_mag, sizeof(float) * width);
    }
}
