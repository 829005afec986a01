"""What PyTorch does in f32 on the same GPU, beside `csmoe bench`: products (cuBLAS, no TF32), a copy, an attention and a
transformer block, forward and backward. Each figure is the best of five bursts of thirty.

    python3 tools/peers/torch_bar.py        needs PyTorch with CUDA
"""
import torch
import torch.nn.functional as F

torch.backends.cuda.matmul.allow_tf32 = False
torch.backends.cudnn.allow_tf32 = False


def milliseconds(run, times=30):
    for _ in range(5):
        run()
    best = float("inf")
    for _ in range(5):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(times):
            run()
        end.record()
        torch.cuda.synchronize()
        best = min(best, start.elapsed_time(end) / times)
    return best


def normal(*shape, grad=False):
    return torch.randn(*shape, device="cuda", requires_grad=grad)


print(torch.cuda.get_device_name(), "PyTorch", torch.__version__)
for m, k, n in [(1024, 1024, 1024), (4096, 768, 3072)]:
    x, w, b, dy = normal(m, k), normal(n, k), normal(n), normal(m, n)
    ms = sum(map(milliseconds, [lambda: torch.addmm(b, x, w.t()), lambda: dy @ w, lambda: dy.t() @ x]))
    print(f"product {m} x {k} x {n}, and both gradients: {ms:.3f} ms, {6 * m * k * n / ms * 1e-9:.1f} TFLOP/s")
x = normal(4 << 20)
y = torch.empty_like(x)
print(f"copy of 16 MiB: {8e-6 * x.numel() / milliseconds(lambda: torch.mul(x, 1.5, out=y)):.0f} GB/s")
q, k, v = (normal(4, 12, 197, 64, grad=True) for _ in range(3))
g = normal(4, 12, 197, 64)
ms = milliseconds(lambda: torch.autograd.grad(F.scaled_dot_product_attention(q, k, v), (q, k, v), g))
print(f"attention B 4, 12 heads of 64, N 197: {ms:.3f} ms")
block = torch.nn.TransformerEncoderLayer(768, 12, 3072, 0.0, "gelu", batch_first=True, norm_first=True).cuda()
x, g = normal(4, 197, 768, grad=True), normal(4, 197, 768)
ms = milliseconds(lambda: torch.autograd.grad(block(x), [x, *block.parameters()], g))
print(f"ViT block 768, 12 heads, N 197, B 4: {ms:.3f} ms")
