//! tmp
use std::time::Instant;
use swav_data::augment::*;
use swav_data::*;
fn main() {
    let s = open(std::path::Path::new("../shared/data/photos"), Format::Auto).unwrap();
    let imgs: Vec<Image> = (0..40).map(|i| decode(&s.read(i).unwrap(), "", u64::MAX).unwrap()).collect();
    let mut sc = Scratch::default();
    let mut t = [0f64; 8];
    let d = Augment::default();
    for (i, im) in imgs.iter().enumerate() {
        for c in 0..8u32 {
            let (size, scale) = if c < 2 { (224, [0.14, 1.0]) } else { (96, [0.05, 0.14]) };
            let mut out = vec![0; size * size * 3];
            let dr = d.draw(&random::CropKey::new(0, 0, i as u64, c), im.width, im.height, scale);
            let mut go = |k: usize, f: &mut dyn FnMut(&mut [u8])| { let b = Instant::now(); f(&mut out); t[k] += b.elapsed().as_secs_f64() / 40.0 * 1e3; };
            go(0, &mut |o| crop::apply(im, dr.region, size, &mut sc, o));
            if dr.flip { go(1, &mut |o| flip::apply(o, size)); }
            if let Some(j) = &dr.jitter {
                go(2, &mut |o| jitter::brightness(o, j.brightness));
                go(3, &mut |o| jitter::contrast(o, j.contrast));
                go(4, &mut |o| jitter::saturation(o, j.saturation));
                go(5, &mut |o| jitter::hue(o, j.hue));
            }
            if dr.grey { go(6, &mut |o| grey::apply(o)); }
            if let Some(g) = dr.blur { go(7, &mut |o| blur::apply(o, size, g, &mut sc)); }
        }
    }
    println!("ms/image: crop {:.2} flip {:.2} bright {:.2} contrast {:.2} sat {:.2} hue {:.2} grey {:.2} blur {:.2}", t[0], t[1], t[2], t[3], t[4], t[5], t[6], t[7]);
}
