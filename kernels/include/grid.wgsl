// The number of this workgroup when the host has split a long grid over x and y.
fn group_index(id: vec3<u32>, groups: vec3<u32>) -> u32 {
    return id.x + id.y * groups.x;
}
