// Memory beyond the cache is waited for line by line: on a CPU's vector units gathers and scatters do not make the
// processor fetch ahead. A look at lines before their use, a line a lane, waits for sixteen at once. The file's `load`
// knows its buffers by number; what was seen, masked with a 0 that the driver does not know, is to be added somewhere.
const LINE: u32 = 16u;

fn look(which: u32, at: u32, stride: u32, rows: u32, width: u32, lane: u32) -> u32 {
    var seen = 0u;
    for (var r = lane; r < rows; r += LANES) {
        for (var i = 0u; i < width; i += LINE) {
            seen |= bitcast<u32>(load(which, at + r * stride + i));
        }
    }
    return seen;
}
