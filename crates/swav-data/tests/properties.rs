//! What holds for any image, any setting and any length.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use swav_data::augment::{Scratch, crop};
use swav_data::random::{CropKey, Purpose};
use swav_data::{Augment, Blur, CropSpec, Image, Jitter, Permutation, View};

prop_compose! {
    fn image()(width in 1u32..90, height in 1u32..90, salt in any::<u32>()) -> Image {
        let bytes = width * height * 3;
        let rgb = (0..bytes).map(|i| (i.wrapping_mul(salt | 1) >> 13) as u8).collect();
        Image::new(width, height, rgb).unwrap()
    }
}

prop_compose! {
    fn augment()(
        probabilities in prop::array::uniform4(0.0f32..=1.0),
        widths in prop::array::uniform3(0.0f32..3.0),
        hue in 0.0f32..=0.5,
        low in 0.01f32..3.0,
        more in 0.0f32..3.0,
    ) -> Augment {
        let [jitter, grey, blur, flip] = probabilities;
        let [brightness, contrast, saturation] = widths;
        Augment {
            jitter: Jitter { probability: jitter, brightness, contrast, saturation, hue },
            grey,
            blur: Blur { probability: blur, sigma: [low, low + more] },
            flip,
        }
    }
}

proptest! {
    #[test]
    fn any_image_gives_crops_under_any_valid_settings(
        image in image(),
        augment in augment(),
        size in 1usize..40,
        low in 0.001f32..=1.0,
        key in any::<[u64; 3]>(),
    ) {
        prop_assert!(augment.validate().is_ok());
        let crops = vec![CropSpec { count: 2, size, scale: [low, 1.0] }];
        let view = View::MultiCrop { crops, augment };
        prop_assert!(view.validate().is_ok());
        let (mut once, mut twice) = (vec![0; view.bytes()], vec![1; view.bytes()]);
        view.render(&image, key, &mut Scratch::default(), &mut once);
        // Buffers that have seen another image make no difference.
        let mut used = Scratch::default();
        let other = Image::new(3, 5, vec![9; 45]).unwrap();
        view.render(&other, key, &mut used, &mut twice);
        view.render(&image, key, &mut used, &mut twice);
        prop_assert_eq!(once, twice);
    }

    #[test]
    fn any_image_has_a_centre(image in image(), resize in 1usize..60, share in 0.0f64..=1.0) {
        let size = ((resize as f64 * share) as usize).max(1);
        let view = View::Centre { resize, size };
        let mut out = vec![0; view.bytes()];
        view.render(&image, [0; 3], &mut Scratch::default(), &mut out);
    }

    #[test]
    fn regions_never_leave_the_image(
        width in 1u32..5000,
        height in 1u32..5000,
        low in 0.0001f32..=1.0,
        sample in any::<u64>(),
    ) {
        let mut draws = CropKey::new(0, 0, sample, 0).draws(Purpose::Crop);
        let region = crop::draw(&mut draws, width, height, [low, 1.0]);
        prop_assert!(region.width >= 1 && region.left + region.width <= width);
        prop_assert!(region.height >= 1 && region.top + region.height <= height);
    }

    #[test]
    fn orders_are_permutations(len in 1u64..3000, seed in any::<u64>(), epoch in any::<u64>()) {
        let order = Permutation::new(len, seed, epoch);
        let mut samples: Vec<u64> = (0..len).map(|position| order.at(position)).collect();
        samples.sort_unstable();
        prop_assert!(samples.into_iter().eq(0..len));
    }
}
