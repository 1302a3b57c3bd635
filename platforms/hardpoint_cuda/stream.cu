// Products of up to 16 rows with small weights:
//   out = residual + activation(x_scale * weight_scale * (norm(x) @ weight.T) + bias)
//
// A block has TILES times 16 rows of the weight (8 pairs of gate and up if gated); its warps share the columns. Weights go
// from memory straight to the registers that the matrix units read: the product does not care about the order of columns,
// so each thread takes 16 neighbouring bytes of a row, and x is read in the same order. A ring of DEPTH pieces is always on
// its way, the first of it before the wait for the kernel that makes x. Sums of warps are added in their order.
//
// Macros: ROWS (8 or 16: rows of x in a product), WARPS, RESIDENT (warps on a multiprocessor), DEPTH, TILES, LINE (64 or
// 128, divides a row), ALONE (one row, kept in shared memory), FP8, HALF, KIND (0 none, 1 silu, 2 gelu by tanh, 3 gelu),
// NORM (0 none, 1 weight in x's type, 2 weight in float32), BIAS, RESIDUAL, SCALED, X_SCALED.

typedef unsigned int u32;
typedef unsigned short u16;
#define GROUPS (ROWS / 8)
#define X_DEPTH (ROWS == 8 ? 4 : 2)  // steps of x on their way
// Output features of a tile of 16 rows, and of a block.
#define EACH (KIND ? 8 : 16)
#define FEATURES (EACH * TILES)

__device__ __forceinline__ uint4 load_weight(const char* at) {
  uint4 r;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(r.x), "=r"(r.y), "=r"(r.z), "=r"(r.w) : "l"(at));
  return r;
}

__device__ __forceinline__ uint4 load(const char* at) {
  uint4 r;
  asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(r.x), "=r"(r.y), "=r"(r.z), "=r"(r.w) : "l"(at));
  return r;
}

__device__ __forceinline__ void multiply(float* c, u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
#if FP8
  asm("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
#elif HALF
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
#else
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
#endif
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

__device__ __forceinline__ float low(u32 pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float high(u32 pair) { return __uint_as_float(pair & 0xffff0000u); }

__device__ __forceinline__ float widen(u16 value) {
#if HALF
  float r;
  asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"(value));
  return r;
#else
  return __uint_as_float((u32)value << 16);
#endif
}

__device__ __forceinline__ u16 narrow(float value) {
  u16 r;
#if HALF
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(r) : "f"(value));
#else
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(r) : "f"(value));
#endif
  return r;
}

// Eight weights of the norm, the piece-th 8 of them, plus the offset.
__device__ __forceinline__ void load_factors(const char* at, int piece, float offset, float* f) {
#if NORM == 2
  const uint4 a = load(at + (size_t)piece * 32), b = load(at + (size_t)piece * 32 + 16);
  f[0] = __uint_as_float(a.x), f[1] = __uint_as_float(a.y), f[2] = __uint_as_float(a.z), f[3] = __uint_as_float(a.w);
  f[4] = __uint_as_float(b.x), f[5] = __uint_as_float(b.y), f[6] = __uint_as_float(b.z), f[7] = __uint_as_float(b.w);
#else
  const uint4 a = load(at + (size_t)piece * 16);
  f[0] = low(a.x), f[1] = high(a.x), f[2] = low(a.y), f[3] = high(a.y);
  f[4] = low(a.z), f[5] = high(a.z), f[6] = low(a.w), f[7] = high(a.w);
#endif
#pragma unroll
  for (int i = 0; i < 8; i++) f[i] += offset;
}

__device__ __forceinline__ u32 weigh(u32 x, float w0, float w1, float& squares) {
  float v0 = low(x), v1 = high(x);
  squares = fmaf(v0, v0, fmaf(v1, v1, squares));
  u32 r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(v1 * w1), "f"(v0 * w0));
  return r;
}

// Eight columns of x times the norm's weight, in bfloat16; their squares are added up.
__device__ __forceinline__ uint4 weigh(uint4 x, const float* f, float& squares) {
  return make_uint4(weigh(x.x, f[0], f[1], squares), weigh(x.y, f[2], f[3], squares), weigh(x.z, f[4], f[5], squares),
                    weigh(x.w, f[6], f[7], squares));
}

__device__ __forceinline__ float gated(float gate, float up) {
#if KIND == 1
  return gate / (1.0f + __expf(-gate)) * up;
#elif KIND == 2
  float inner = 0.7978845608028654f * (gate + 0.044715f * gate * gate * gate);
  return gate * (1.0f - 1.0f / (__expf(2.0f * inner) + 1.0f)) * up;
#else
  return 0.5f * gate * (1.0f + erff(gate * 0.7071067811865476f)) * up;
#endif
}

extern "C" __global__ void __launch_bounds__(WARPS * 32, RESIDENT / WARPS)
stream(const char* x, const char* weight, u16* out, const char* norm_weight, const u16* bias, const u16* residual,
       const float* weight_scale, const float* x_scale, int rows, long long x_stride, int n_out, int row_bytes, float eps,
       float offset, float per_column) {
  __shared__ float sums[WARPS][16 * TILES][ROWS + 1];
#if NORM
  __shared__ float all_squares[WARPS][ROWS];
#endif
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = lane / 4, part = lane % 4;
  // Warps take turns with LINE bytes of each row, in steps of 64: together they walk along the rows. All lanes of a warp take
  // the same branches.
  int left = (row_bytes / LINE - warp + WARPS - 1) / WARPS * (LINE / 64);
#define AHEAD(i) ((i) / (LINE / 64) * LINE * WARPS + (i) % (LINE / 64) * 64)
  const int start = warp * LINE + part * 16;
  const char *first_at[TILES], *second_at[TILES];
#pragma unroll
  for (int t = 0; t < TILES; t++) {
    const int n = blockIdx.x * FEATURES + t * EACH + group;
    const int first_row = min(n, n_out - 1), second_row = KIND ? n_out + first_row : min(n + 8, n_out - 1);
    first_at[t] = weight + (size_t)first_row * row_bytes + start;
    second_at[t] = weight + (size_t)second_row * row_bytes + start;
  }
  uint4 first[DEPTH][TILES], second[DEPTH][TILES];
#pragma unroll
  for (int i = 0; i < DEPTH; i++) {
    if (left > i) {
#pragma unroll
      for (int t = 0; t < TILES; t++) {
        first[i][t] = load_weight(first_at[t] + AHEAD(i));
        second[i][t] = load_weight(second_at[t] + AHEAD(i));
      }
    }
  }
  asm volatile("griddepcontrol.launch_dependents;");
  asm volatile("griddepcontrol.wait;" ::: "memory");

  float total[TILES][GROUPS][4];
#pragma unroll
  for (int i = 0; i < GROUPS; i++)
#pragma unroll
    for (int t = 0; t < TILES; t++) total[t][i][0] = total[t][i][1] = total[t][i][2] = total[t][i][3] = 0.0f;
#if ALONE
  // Every lane group holds the one row: the product's other columns repeat it.
  extern __shared__ uint4 row[];
#if NORM
  float squares = 0.0f;
#endif
#pragma unroll 4
  for (int i = threadIdx.x; i < row_bytes / 16; i += WARPS * 32) {
    uint4 value = load(x + (size_t)i * 16);
#if NORM
    float f[8];
    load_factors(norm_weight, i, offset, f);
    value = weigh(value, f, squares);
#endif
    row[i] = value;
  }
#if NORM
#pragma unroll
  for (int i = 16; i > 0; i /= 2) squares += __shfl_xor_sync(0xffffffffu, squares, i);
  if (lane == 0) all_squares[warp][0] = squares;
#endif
  __syncthreads();
  const char* row_at = (const char*)row + start;
#else
  const char* x_at[GROUPS];
  uint4 next[X_DEPTH][GROUPS];
#if NORM
  float squares[GROUPS];
#endif
#pragma unroll
  for (int i = 0; i < GROUPS; i++) {
    // Rows past the last repeat it: nobody reads their results.
    x_at[i] = x + (size_t)min(i * 8 + group, rows - 1) * x_stride + start;
#pragma unroll
    for (int j = 0; j < X_DEPTH; j++)
      if (left > j) next[j][i] = load(x_at[i] + AHEAD(j));
#if NORM
    squares[i] = 0.0f;
#endif
  }
  int factor_at = start / 16;
#endif

  for (; left > 0; left -= DEPTH) {
#pragma unroll
    for (int i = 0; i < DEPTH; i++) {
      if (left <= i) break;
      uint4 values[GROUPS];
#if ALONE
      values[0] = *(const uint4*)(row_at + AHEAD(i));
#else
#pragma unroll
      for (int j = 0; j < GROUPS; j++) {
        values[j] = next[i % X_DEPTH][j];
        if (left > i + X_DEPTH) next[i % X_DEPTH][j] = load(x_at[j] + AHEAD(i + X_DEPTH));
      }
#if NORM
      float f[8];
      load_factors(norm_weight, factor_at + AHEAD(i) / 16, offset, f);
#pragma unroll
      for (int j = 0; j < GROUPS; j++) values[j] = weigh(values[j], f, squares[j]);
#endif
#endif
#pragma unroll
      for (int j = 0; j < GROUPS; j++) {
#pragma unroll
        for (int t = 0; t < TILES; t++) {
          const uint4 a = first[i][t], b = second[i][t];
          multiply(total[t][j], a.x, b.x, a.y, b.y, values[j].x, values[j].y);
          multiply(total[t][j], a.z, b.z, a.w, b.w, values[j].z, values[j].w);
        }
      }
      if (left > DEPTH + i) {
#pragma unroll
        for (int t = 0; t < TILES; t++) {
          first[i][t] = load_weight(first_at[t] + AHEAD(DEPTH + i));
          second[i][t] = load_weight(second_at[t] + AHEAD(DEPTH + i));
        }
      }
    }
#pragma unroll
    for (int t = 0; t < TILES; t++) {
      first_at[t] += AHEAD(DEPTH);
      second_at[t] += AHEAD(DEPTH);
    }
#if ALONE
    row_at += AHEAD(DEPTH);
#else
#pragma unroll
    for (int j = 0; j < GROUPS; j++) x_at[j] += AHEAD(DEPTH);
    factor_at += AHEAD(DEPTH) / 16;
#endif
  }

#pragma unroll
  for (int i = 0; i < GROUPS; i++) {
    const int column = i * 8 + part * 2;
#pragma unroll
    for (int t = 0; t < TILES; t++) {
      float(*mine)[ROWS + 1] = &sums[warp][t * 16 + group];
      mine[0][column] = total[t][i][0], mine[0][column + 1] = total[t][i][1];
      mine[8][column] = total[t][i][2], mine[8][column + 1] = total[t][i][3];
    }
#if NORM && !ALONE
    float s = squares[i];
    s += __shfl_xor_sync(0xffffffffu, s, 1);
    s += __shfl_xor_sync(0xffffffffu, s, 2);
    if (part == 0) all_squares[warp][i * 8 + group] = s;
#endif
  }
  __syncthreads();
  for (int cell = threadIdx.x; cell < FEATURES * rows; cell += WARPS * 32) {
    const int feature = cell % FEATURES, row = cell / FEATURES, n = blockIdx.x * FEATURES + feature;
    const int line = feature / EACH * 16 + feature % EACH;
    if (n >= n_out) continue;
    float y = 0.0f, factor = 1.0f;
#pragma unroll
    for (int i = 0; i < WARPS; i++) y += sums[i][line][row];
#if KIND
    float up = 0.0f;
#pragma unroll
    for (int i = 0; i < WARPS; i++) up += sums[i][line + 8][row];
#endif
#if NORM
    float s = 0.0f;
#pragma unroll
    for (int i = 0; i < WARPS; i++) s += all_squares[i][row];
    factor = rsqrtf(s * per_column + eps);
#endif
#if X_SCALED
    factor *= x_scale[row];
#endif
    y *= factor;
#if SCALED
    y *= weight_scale[n];
#endif
#if BIAS
    y += widen(bias[n]);
#endif
#if KIND
    up *= factor;
#if SCALED
    up *= weight_scale[n_out + n];
#endif
#if BIAS
    up += widen(bias[n_out + n]);
#endif
    y = gated(y, up);
#endif
#if RESIDUAL
    y += widen(residual[(size_t)row * n_out + n]);
#endif
    out[(size_t)row * n_out + n] = narrow(y);
  }
}
