// Sum and maximum over the 64 lanes of a workgroup, in a fixed order, given to every lane. Two barriers each:
// eights first, then the eight of them. Safe to call again at once.
var<workgroup> workgroup_lanes: array<f32, 64>;
var<workgroup> workgroup_eights: array<f32, 8>;

fn workgroup_sum(value: f32, lane: u32) -> f32 {
    workgroup_lanes[lane] = value;
    workgroupBarrier();
    if lane < 8u {
        var sum = 0.0;
        for (var i = 0u; i < 8u; i++) {
            sum += workgroup_lanes[lane * 8u + i];
        }
        workgroup_eights[lane] = sum;
    }
    workgroupBarrier();
    var total = 0.0;
    for (var i = 0u; i < 8u; i++) {
        total += workgroup_eights[i];
    }
    return total;
}

fn workgroup_max(value: f32, lane: u32) -> f32 {
    workgroup_lanes[lane] = value;
    workgroupBarrier();
    if lane < 8u {
        var most = workgroup_lanes[lane * 8u];
        for (var i = 1u; i < 8u; i++) {
            most = max(most, workgroup_lanes[lane * 8u + i]);
        }
        workgroup_eights[lane] = most;
    }
    workgroupBarrier();
    var most = workgroup_eights[0];
    for (var i = 1u; i < 8u; i++) {
        most = max(most, workgroup_eights[i]);
    }
    return most;
}
