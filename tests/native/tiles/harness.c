/* Run every tile of one instruction set on fixed inputs and print a hash of the results, one line for each
   tile and dtype: `harness` lists the instruction sets, `harness avx2` runs one. If v_fma rounds once,
   the lines must be the same on every machine. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "dispatch.h"

#define SIZE 262144 /* elements of a buffer */

static _Alignas(64) double buffer_a[SIZE], buffer_b[SIZE], buffer_c[SIZE], buffer_d[SIZE],
    scratch[SIZE];
/* One element past an aligned address, as rows of odd width are. */
static void *const A = (char *)buffer_a + 8, *const B = (char *)buffer_b + 8,
                   *const C = (char *)buffer_c + 8, *const D = (char *)buffer_d + 8;

static const tile_table *tiles;
static uint64_t state, hash;

static int is_double(void) { return tiles->item_size == 8; }

static double get(const void *p, ptrdiff_t i) {
    return is_double() ? ((const double *)p)[i] : (double)((const float *)p)[i];
}

static void put(void *p, ptrdiff_t i, double x) {
    if (is_double()) ((double *)p)[i] = x;
    else ((float *)p)[i] = (float)x;
}

/* splitmix64. */
static uint64_t random_bits(void) {
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* A number in [-1, 1), the same everywhere: no libm. */
static double uniform(void) { return (double)(random_bits() >> 11) * 0x1p-52 - 1; }

static void fill(void *p, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i++) put(p, i, uniform());
}

/* All relevant magnitudes, and occasionally a special value. */
static void fill_widely(void *p, ptrdiff_t n) {
    static const double special[] = {0.0,      -0.0,      INFINITY,  -INFINITY, NAN,
                                     0x1p-149, -0x1p-149, 0x1p-1074, 0x1p127,   -0x1p127,
                                     1,        -1,        88.8,      -103.5,    709.9};
    const uint64_t specials = sizeof special / sizeof special[0];
    for (ptrdiff_t i = 0; i < n; i++) {
        const uint64_t r = random_bits();
        if (r % 16 == 0) put(p, i, special[(r >> 8) % specials]);
        else put(p, i, ldexp(uniform(), (int)((r >> 8) % 24) - 12));
    }
}

/* FNV-1a. */
static void take_bytes(const void *p, size_t n) {
    for (size_t i = 0; i < n; i++) hash = (hash ^ ((const unsigned char *)p)[i]) * 0x100000001b3u;
}

/* All NaNs are hashed alike: their signs depend on the architecture. */
static void take_double(double x) {
    if (x != x) x = 0x1.8p1023;
    take_bytes(&x, sizeof x);
}

static void take(const void *p, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i++) take_double(get(p, i));
}

/* Every section starts from the same state, so that a difference affects one line only. */
static void begin(void) {
    state = 1;
    hash = 0xcbf29ce484222325u;
}

static void end(const char *family, const char *name) {
    printf("%s %s %s %016llx\n", is_double() ? "float64" : "float32", family, name,
           (unsigned long long)hash);
}

/* C (m, n) of row stride n + 3 <- [bias +] A B, with A and B stored by columns if requested. The padding of
   C is hashed too, to detect writes there. */
static void one_product(ptrdiff_t m, ptrdiff_t n, ptrdiff_t depth, ptrdiff_t pad, int along_rows,
                        int transposed, int bias) {
    const ptrdiff_t a_rs = along_rows ? 1 : depth + pad, a_cs = along_rows ? m + pad : 1;
    const ptrdiff_t b_rs = transposed ? 1 : n + pad, b_cs = transposed ? depth + pad : 1;
    fill(A, (m - 1) * a_rs + (depth - 1) * a_cs + 1);
    fill(B, (depth - 1) * b_rs + (n - 1) * b_cs + 1);
    fill(C, m * (n + 3));
    fill(D, n);
    tiles->product(m, n, depth, A, a_rs, a_cs, B, b_rs, b_cs, bias ? D : NULL, C, n + 3, scratch);
    take(C, m * (n + 3));
}

static void run_product(int along_rows, int transposed, int bias) {
    static const ptrdiff_t ns[] = {1,  2,  3,  4,  5,  7,  8,  9,  11, 15,  16,  17,
                                   23, 24, 25, 31, 32, 33, 40, 47, 65, 100, 131, 260};
    static const ptrdiff_t depths[] = {1, 2, 5, 33};
    char name[64];
    begin();
    /* Shapes around the sizes of the tiles. */
    for (ptrdiff_t m = 1; m <= 26; m += m < 14 ? 1 : 6)
        for (size_t i = 0; i < sizeof ns / sizeof ns[0]; i++)
            for (size_t k = 0; k < sizeof depths / sizeof depths[0]; k++)
                one_product(m, ns[i], depths[k], (m + ns[i]) % 4, along_rows, transposed, bias);
    /* More than the depth of a panel, enough rows to pack, rows that map to the same cache lines. */
    one_product(7, 40, 700, 1, along_rows, transposed, bias);
    one_product(70, 100, 90, 1, along_rows, transposed, bias);
    one_product(30, 140, 40, 984, along_rows, transposed, bias);
    snprintf(name, sizeof name, "%s_%s_%s", along_rows ? "columns" : "rows",
             transposed ? "transposed" : "plain", bias ? "bias" : "zero");
    end("product", name);
}

/* A sparse matrix with three entries in ten, whose rows are read backwards. */
static void run_sparse(void) {
    static int64_t indptr[64], indices[SIZE], starts[SIZE], transposed[SIZE], order[64];
    begin();
    for (ptrdiff_t n = 1; n <= 140; n += n < 40 ? 1 : 20) {
        const ptrdiff_t m = 1 + n % 9, depth = 1 + n % 33, ldc = n + 3;
        int64_t entries = 0;
        for (ptrdiff_t r = 0; r < m; r++) {
            order[r] = m - 1 - r;
            indptr[r] = entries;
            for (ptrdiff_t k = 0; k < depth; k++)
                if (random_bits() % 10 < 3) indices[entries++] = k;
        }
        indptr[m] = entries;
        fill(A, entries);
        fill(B, depth * n);
        fill(C, m * ldc);
        fill(D, n);
        const tile_csr X = {indptr, indices, A, order};
        tiles->sparse_product(m, n, depth, &X, B, n, n % 2 ? D : NULL, C, ldc);
        take(C, m * ldc);
        tiles->sparse_transpose(m, depth, &X, starts, transposed, C);
        take(C, entries);
        take_bytes(starts, (size_t)(depth + 1) * sizeof *starts);
        take_bytes(transposed, (size_t)entries * sizeof *transposed);
        tiles->sparse_to_dense(m, depth, &X, C);
        take(C, m * depth);
    }
    end("sparse", "all");
}

/* Elements numbered from various starts. */
static void run_dropout(void) {
    begin();
    for (ptrdiff_t n = 1; n <= 600; n += n < 70 ? 1 : 53)
        for (uint64_t first = 0; first < 3; first++) {
            fill(A, n);
            fill(B, n + 8);
            tiles->dropout(n, 0.3, random_bits(), first + (n % 2 ? 1000000007 : 0), A, B);
            take(B, n + 8);
        }
    end("dropout", "all");
}

static void take_doubles(const double *x, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i++) take_double(x[i]);
}

/* Matrices of up to three stripes of columns, some of which are skipped. */
static void run_normalisation(void) {
    static double memory[6][200];
    const tile_norm s = {memory[0], memory[1], memory[2], memory[3], memory[4], memory[5]};
    begin();
    for (ptrdiff_t n = 1; n <= 140; n += n < 70 ? 1 : 23) {
        const ptrdiff_t m = 1 + n % 7, ld = n + n % 3;
        fill(A, m * ld);
        fill(B, m * ld);
        tiles->column_moments(m, n, A, ld, s.mean, s.inverse);
        take_doubles(s.mean, n);
        take_doubles(s.inverse, n);
        for (ptrdiff_t j = 0; j < n; j++) {
            s.inverse[j] = 1 / (s.inverse[j] + 0.1);
            s.r[j] = 1 + uniform() / 2;
            s.d[j] = uniform();
        }
        tiles->norm_sums(m, n, A, B, ld, s.mean, s.inverse, s.sum_D, s.sum_DX);
        take_doubles(s.sum_D, n);
        take_doubles(s.sum_DX, n);
        fill(D, 2 * n);
        fill(C, m * n + 8);
        tiles->norm_forward(m, n, &s, D, (char *)D + n * tiles->item_size, A, C);
        take(C, m * n + 8);
        for (int whole = 0; whole < 2; whole++) {
            fill(C, m * n + 8);
            tiles->norm_backward(m, n, &s, whole ? (double)m : 0, D, A, B, C);
            take(C, m * n + 8);
        }
        fill(C, m * n + 8);
        tiles->layer_norm(m, n, 1e-3, D, (char *)D + n * tiles->item_size, A, C, scratch);
        take(C, m * n + 8);
        take(scratch, 2 * m);
        tiles->layer_norm_backward(m, n, D, A, scratch, B, C);
        take(C, m * n + 8);
        tiles->layer_norm_sums(m, n, A, scratch, B, n, s.sum_D, s.sum_DX);
        take_doubles(s.sum_D, n);
        take_doubles(s.sum_DX, n);
    }
    end("normalisation", "all");
}

static void run_layers(void) {
    static double sums[200];
    begin();
    for (ptrdiff_t n = 1; n <= 140; n += n < 70 ? 1 : 23) {
        const ptrdiff_t m = 1 + n % 5, pieces = 1 + n % 4;
        if (n % 3) fill(A, m * n * pieces);
        else fill_widely(A, m * n * pieces);
        fill(B, m * n);
        fill(C, m * n + 8);
        tiles->maxout(m, n, pieces, A, C);
        take(C, m * n + 8);
        fill(D, m * n * pieces + 8);
        tiles->maxout_backward(m, n, pieces, A, C, B, D);
        take(D, m * n * pieces + 8);
        tiles->prelu(m, n, B, A, A, C);
        take(C, m * n + 8);
        tiles->prelu_sums(m, n, A, B, n, sums);
        take_doubles(sums, n);
        for (uint64_t first = 0; first < 3; first++) {
            tiles->rrelu(m * n, 0.1, 0.4, random_bits(), first, A, B, C);
            take(C, m * n + 8);
        }
        tiles->add(m * n, A, B, C);
        take(C, m * n + 8);
        tiles->scale(m * n, 0.7, C);
        tiles->clamp(m, n - n / 3, 0.5, C, n);
        take(C, m * n + 8);
        tiles->noisy(m * n, 0.3, random_bits(), 5, B, C);
        take(C, m * n + 8);
    }
    end("layers", "all");
}

static void run_sums(void) {
    begin();
    for (ptrdiff_t n = 1; n <= 70; n++) {
        const ptrdiff_t m = 1 + n % 11, ldd = n + n % 3;
        fill(D, m * ldd);
        fill(C, n + 8);
        tiles->column_sums(m, n, D, ldd, C);
        take(C, n + 8);
        take_double(tiles->sum_of_squares(n, D));
        take_double(tiles->all_finite(n, D));
        put(D, n - 1, n % 2 ? NAN : -INFINITY);
        take_double(tiles->all_finite(n, D));
    }
    tiles->prefetch(5, 70, D, 71);
    take_double(tiles->multiply_add_rounds(3) > 0);
    end("sum", "all");
}

/* Lengths below and above one vector, then one long run. */
static ptrdiff_t next_length(ptrdiff_t n) { return n < 40 ? n + 1 : n == 40 ? 10000 : 0; }

static void run_functions(void) {
    for (const tile_function *f = tiles->functions; f->name; f++) {
        begin();
        for (ptrdiff_t n = 1; n; n = next_length(n)) {
            fill_widely(A, n);
            fill(B, n + 8);
            f->apply(n, A, B);
            take(B, n + 8);
        }
        end("function", f->name);
    }
}

static void run_activations(void) {
    for (const tile_activation *f = tiles->activations; f->name; f++) {
        begin();
        for (ptrdiff_t n = 1; n; n = next_length(n)) {
            fill_widely(A, n);
            fill(B, n + 8);
            fill(C, n + 8);
            fill(D, n + 8);
            f->forward(n, 0.3, A, B);
            f->derivative(n, 0.3, A, C);
            f->backward(n, 0.3, f->saves_z ? A : B, D);
            take(B, n + 8);
            take(C, n + 8);
            take(D, n + 8);
        }
        end("activation", f->name);
    }
}

static void run_losses(void) {
    static double row_scale[64], row_loss[64];
    static int64_t classes[64];
    for (const tile_loss *f = tiles->losses; f->name; f++) {
        begin();
        for (ptrdiff_t n = 1; n <= 600; n += n < 40 ? 1 : 280)
            for (int wide = 0; wide < 2; wide++)
                for (int by_class = 0; by_class <= (strcmp(f->name, "cross_entropy") == 0);
                     by_class++) {
                    const ptrdiff_t m = 1 + n % 5;
                    if (wide) fill_widely(B, m * n);
                    else fill(B, m * n);
                    fill(A, m * n);
                    fill(D, m * n + 8);
                    for (ptrdiff_t r = 0; r < m; r++) {
                        row_scale[r] = r % 3 == 2 ? 0 : (1 + uniform()) / 2;
                        classes[r] = (int64_t)(random_bits() % (uint64_t)n);
                    }
                    f->loss(m, n, 0.4, by_class ? NULL : A, by_class ? classes : NULL, B, row_scale,
                            D, row_loss);
                    take(D, m * n + 8);
                    for (ptrdiff_t r = 0; r < m; r++) take_double(row_loss[r]);
                }
        end("loss", f->name);
    }
}

static void run_links(void) {
    for (const tile_link *f = tiles->links; f->name; f++) {
        begin();
        for (ptrdiff_t n = 1; n <= 600; n += n < 40 ? 1 : 280) {
            const ptrdiff_t m = 1 + n % 5;
            fill_widely(A, m * n);
            fill(B, m * n + 8);
            f->link(m, n, A, B);
            take(B, m * n + 8);
        }
        end("link", f->name);
    }
}

/* Three steps of every rule under every penalty, and under none. */
static void run_optimizers(void) {
    static const double ordinary[] = {0.9, 0.999, 1e-8, 1, 0.01}, rprop[] = {0.5, 1.2, 1e-6, 50};
    for (const tile_optimizer *f = tiles->optimizers; f->name; f++) {
        const double *h = strcmp(f->name, "rprop") == 0 ? rprop : ordinary;
        begin();
        for (const tile_penalty *penalty = tiles->penalties;; penalty++) {
            for (ptrdiff_t n = 1; n <= 40; n++) {
                const ptrdiff_t m = 1 + n % 3, ldw = n + n % 4, ldg = n + n % 2, all = m * ldw + 8;
                fill(A, all);
                fill(C, all);
                if (n % 5) fill(D, all);
                else fill_widely(D, all);
                for (ptrdiff_t i = 0; i < all; i++) put(D, i, fabs(get(D, i)));
                for (int t = 1; t <= 3; t++) {
                    tile_update u = {.weight = (int)(n % 2)};
                    f->prepare(h, 0.05, t, &u);
                    if (penalty->name) penalty->prepare(0.3, 0.4, 1.7, &u);
                    if (penalty->name && penalty->value) {
                        put(B, 0, penalty->value(n, 0.4, A));
                        take(B, 1);
                    }
                    if (n % 5) fill(B, m * ldg);
                    else fill_widely(B, m * ldg);
                    f->update(&u, m, n, A, ldw, B, ldg, NULL, C, D);
                    for (int i = 0; i < 8; i++) take_double(u.c[i]);
                }
                take(A, all);
                take(C, all);
                take(D, all);
            }
            if (!penalty->name) break;
        }
        end("optimizer", f->name);
    }
}

int main(int count, char **arguments) {
    if (count < 2) {
        for (int i = 0; bp_isa_name(i); i++) puts(bp_isa_name(i));
        return 0;
    }
    for (int item_size = 4; item_size <= 8; item_size += 4) {
        tiles = bp_tiles(arguments[1], item_size);
        if (!tiles) {
            fprintf(stderr, "no %s in this build or CPU\n", arguments[1]);
            return 1;
        }
        if (tiles->product_scratch > SIZE) return 1;
        for (int way = 0; way < 8; way++) run_product(way & 1, way >> 1 & 1, way >> 2);
        run_sparse();
        run_dropout();
        run_normalisation();
        run_layers();
        run_sums();
        run_functions();
        run_activations();
        run_losses();
        run_links();
        run_optimizers();
    }
    return 0;
}
