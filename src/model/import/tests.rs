use super::*;
use crate::model::DecoderConfig;
use crate::model::config::MlpKind;

fn small(preset: &str) -> Config {
    let config = Config::preset(preset).unwrap();
    Config {
        image_size: 12,
        patch_size: 4,
        dim: 16,
        heads: 2,
        sensor_depth: config.sensor_depth.min(1),
        cross_depth: 1,
        decoder: DecoderConfig { dim: 16, depth: 1, heads: 2, ..config.decoder },
        ..config
    }
}

const CSMAE: Options = Options { format: Format::Csmae, sensor: Sensor::S2, upcycle: false, seed: 7 };

/// A state dict as CSMAE's code saves it, of the tensors of one of our models.
fn as_csmae(ours: &Named) -> Named {
    let mut theirs = Named::new();
    let common = ours.contains_key("decoder.norm.weight");
    let [head_s1, head_s2] = match common {
        true => ["decoder.decoder_pred_s2_to_s1", "decoder.decoder_pred_s1_to_s2"],
        false => ["decoder_s2_to_s1.decoder_pred", "decoder_s1_to_s2.decoder_pred"],
    };
    for (name, (shape, values)) in ours {
        let (mut name, mut values) = (name.clone(), values.clone());
        if name.contains("decoder") {
            if name.contains("pred_from_s2") {
                continue; // one head for both sources
            }
            if name.starts_with("s1.decoder.pred_from_s1") {
                values = swap_pairs(&values, values.len() / shape[0]);
            }
            for (a, b) in [
                (".embed.", ".decoder_embed."),
                (".blocks.", ".decoder_blocks."),
                ("decoder.norm.", "decoder.decoder_norm."),
                ("s1.decoder.pred_from_s1", head_s1),
                ("s2.decoder.pred_from_s1", head_s2),
                ("s1.decoder.", "decoder_s2_to_s1."),
                ("s2.decoder.", "decoder_s1_to_s2."),
            ] {
                name = name.replace(a, b);
            }
        } else {
            if name == "s1.patch_embed.proj.weight" {
                values = swap_pairs(&values, 16);
            }
            for (a, b) in [
                ("s1.patch_embed", "patch_embed"),
                ("s2.patch_embed", "patch_embed_s2"),
                ("s1.cls_token", "cls_token"),
                ("s2.cls_token", "cls_token_s2"),
                ("s1.blocks", "blocks_s1"),
                ("s2.blocks", "blocks_s2"),
                ("s1.norm", "norm_s1"),
                ("s2.norm", "norm_s2"),
                ("cross.", ""),
            ] {
                name = name.replace(a, b);
            }
            name = format!("backbone.{name}");
        }
        theirs.insert(name, (shape.clone(), values));
    }
    theirs.insert("backbone.pos_embed".into(), (vec![1, 10, 16], vec![0.0; 160]));
    theirs
}

#[test]
fn csmae_comes_back_whole() {
    for preset in ["csmae", "csmae-sesd", "csmae-cecd", "csmae-cesd"] {
        let config = small(preset);
        let ours = initial(&config, 3);
        let file = as_csmae(&ours);
        assert_eq!(Format::detect(&file).unwrap(), Format::Csmae);
        let Imported { weights, report } = import(&config, &file, CSMAE).unwrap();
        assert!(report.missing.is_empty(), "{:?}", report.missing);
        assert_eq!(report.params_imported, report.params);
        let left: Vec<&str> = report.left_over.iter().map(|l| l.name.as_str()).collect();
        assert_eq!(left, ["backbone.pos_embed"]);
        for (name, (shape, values)) in &weights {
            // The second head starts as the first.
            let twin = name.replace("pred_from_s2", "pred_from_s1");
            assert!(ours[&twin].0 == *shape && ours[&twin].1 == *values, "{name}");
        }
    }
}

#[test]
fn radar_channels_change_places() {
    let config = small("csmae");
    let mut file = as_csmae(&initial(&config, 3));
    let weight = file.get_mut("backbone.patch_embed.proj.weight").unwrap();
    // Output 0: VH weights 1, VV weights 2.
    weight.1[..16].fill(1.0);
    weight.1[16..32].fill(2.0);
    let bias = file.get_mut("decoder.decoder_pred_s2_to_s1.bias").unwrap();
    bias.1[..4].copy_from_slice(&[1.0, 2.0, 3.0, 4.0]);
    let Imported { weights, report } = import(&config, &file, CSMAE).unwrap();
    let ours = &weights["s1.patch_embed.proj.weight"].1;
    assert!(ours[..16].iter().all(|v| *v == 2.0) && ours[16..32].iter().all(|v| *v == 1.0));
    assert_eq!(weights["s1.decoder.pred_from_s2.bias"].1[..4], [2.0, 1.0, 4.0, 3.0]);
    assert_eq!(weights["s2.patch_embed.proj.weight"].1, file["backbone.patch_embed_s2.proj.weight"].1);
    assert!(report.reshaped.iter().any(|c| c.to == "s1.patch_embed.proj.weight" && c.how.contains("VV VH")));
}

#[test]
fn a_dense_perceptron_becomes_every_expert() {
    let config = Config { experts: 3, segment_len: 3, ..small("csmoe-tiny") };
    let dense = Config { mlp: MlpKind::Dense, ..config.clone() };
    let ours = initial(&dense, 3);
    let mut file = Named::new();
    for (name, tensor) in &ours {
        if let Some(rest) = name.strip_prefix("s2.").filter(|n| !n.starts_with("decoder")) {
            file.insert(format!("model.{rest}"), tensor.clone());
        }
    }
    file.insert("model.blocks.1.norm1.weight".into(), (vec![16], vec![1.0; 16]));
    file.insert("model.head.weight".into(), (vec![5, 16], vec![0.0; 80]));
    assert_eq!(Format::detect(&file).unwrap(), Format::Timm);
    let plain = Options { format: Format::Timm, ..CSMAE };
    let left = import(&config, &file, plain).unwrap().report.left_over;
    assert!(left.iter().any(|l| l.name.ends_with("mlp.fc1.weight") && l.why.contains("--upcycle")));

    let Imported { weights, report } = import(&config, &file, Options { upcycle: true, ..plain }).unwrap();
    for part in ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"] {
        for e in 0..3 {
            let expert = &weights[&format!("s2.blocks.0.moe.experts.{e}.{part}")];
            assert!(*expert == ours[&format!("s2.blocks.0.mlp.{part}")], "{e} {part}");
        }
    }
    let left: Vec<&str> = report.left_over.iter().map(|l| l.name.as_str()).collect();
    assert_eq!(left, ["model.blocks.1.norm1.weight", "model.head.weight"]);
    assert!(report.missing.iter().any(|n| n == "s1.blocks.0.attn.qkv.weight"));
    assert!(report.missing.iter().any(|n| n == "s2.blocks.0.moe.slot_proj.weight"));
    assert!(!report.missing.iter().any(|n| n.contains("s2.blocks.0.moe.experts")));
    assert!(import(&dense, &file, Options { upcycle: true, ..plain }).is_err());
}

#[test]
fn colours_spread_and_flat_weights_unfold() {
    let config = small("csmae");
    let timm = Options { format: Format::Timm, ..CSMAE };
    let mut file = Named::new();
    // Output 0: red 3, green 6, blue 9.
    let rgb: Vec<f32> = (0..16 * 3 * 16).map(|i| if i < 48 { (3 * (i / 16 + 1)) as f32 } else { 0.0 }).collect();
    file.insert("patch_embed.proj.weight".into(), (vec![16, 3, 4, 4], rgb));
    file.insert("cls_token".into(), (vec![16], vec![5.0; 16]));
    file.insert("norm.weight".into(), (vec![8], vec![1.0; 8]));
    let Imported { weights, report } = import(&config, &file, timm).unwrap();
    let first: Vec<f32> = weights["s2.patch_embed.proj.weight"].1.chunks(16).take(10).map(|c| c[0]).collect();
    let scaled = [9.0, 6.0, 3.0, 6.0, 6.0, 6.0, 6.0, 6.0, 6.0, 6.0].map(|v: f32| v * 0.3);
    assert!(first.iter().zip(scaled).all(|(a, b)| (a - b).abs() < 1e-6), "{first:?}");
    assert_eq!(weights["s2.cls_token"], (vec![1, 1, 16], vec![5.0; 16]));
    assert_eq!(report.reshaped.len(), 2);
    assert_eq!((&report.reshaped[0].from_shape, &report.reshaped[0].to_shape), (&vec![16], &vec![1, 1, 16]));
    assert!(report.left_over[0].why.contains("[8]"), "{:?}", report.left_over);
}

#[test]
fn strangers_are_refused() {
    let mut file = Named::new();
    file.insert("conv1.weight".into(), (vec![1], vec![0.0]));
    assert!(Format::detect(&file).unwrap_err().to_string().contains("conv1.weight"));
    let e = import(&small("csmae"), &file, CSMAE).err().unwrap().to_string();
    assert!(e.contains("conv1.weight"), "{e}");
}
