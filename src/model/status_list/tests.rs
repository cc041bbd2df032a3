//! The test vectors of the draft (§4.1 and "Test vectors for Status List encoding"), and what is ours.

use proptest::prelude::*;

use super::*;

/// What the draft shows: where the entries are that are not 0, what they are, and the text, of lists of 2^20 entries.
struct Vector {
    bits: u8,
    indices: &'static [u64],
    values: &'static [u8],
    lst: &'static str,
}

fn packed(bits: u8, lst: &str) -> Packed {
    Packed {
        bits,
        lst: lst.to_owned(),
        aggregation_uri: None,
    }
}

const fn value(status: TokenStatus) -> u8 {
    match status {
        TokenStatus::Valid => 0,
        TokenStatus::Invalid => 1,
        TokenStatus::Suspended => 2,
        TokenStatus::Other(value) => value,
    }
}

#[test]
fn reads_the_lists_that_the_draft_shows() {
    for Vector {
        bits,
        indices,
        values,
        lst,
    } in VECTORS
    {
        let list = StatusList::unpack(&packed(*bits, lst), 1 << 20).unwrap();
        assert_eq!(list.len(), 1 << 20, "{bits} bits");
        let read: Vec<(u64, u8)> = (0..list.len())
            .map(|index| (index, value(list.get(index).unwrap())))
            .filter(|(_, value)| *value != 0)
            .collect();
        let shown: Vec<(u64, u8)> = indices.iter().copied().zip(values.iter().copied()).collect();
        assert_eq!(read, shown, "{bits} bits");
        assert_eq!(list.get(1 << 20), None);
        let again = list.pack(None).unwrap();
        assert_eq!(
            StatusList::unpack(&again, 1 << 20),
            Ok(list),
            "and writes what it reads"
        );
    }
}

#[test]
fn reads_the_short_lists_too() {
    for (bits, lst, statuses) in [
        (
            1,
            "eNrbuRgAAhcBXQ",
            vec![1, 0, 0, 1, 1, 1, 0, 1, 1, 1, 0, 0, 0, 1, 0, 1],
        ),
        (2, "eNo76fITAAPfAgc", vec![1, 2, 0, 3, 0, 1, 0, 1, 1, 2, 3, 3]),
    ] {
        let list = StatusList::unpack(&packed(bits, lst), 16).unwrap();
        let read: Vec<u8> = (0..list.len())
            .map(|index| value(list.get(index).unwrap()))
            .collect();
        assert_eq!(read, statuses);
    }
}

#[test]
fn an_hour_ends_where_the_next_begins() {
    let at = Timestamp::from_secs(1_795_329_000);
    let hour = Hour::of(at);
    assert!(hour.end() > at);
    assert_eq!(Hour::of(hour.end()), Hour(hour.0 + 1));
    assert_eq!(
        Hour::of(hour.end().minus(std::time::Duration::from_millis(1))),
        hour
    );
}

proptest! {
    #[test]
    fn what_is_packed_is_unpacked(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let list = StatusList::of_bits(bytes.clone());
        let packed = list.pack(None).unwrap();
        prop_assert_eq!(StatusList::unpack(&packed, bytes.len()), Ok(list));
        if let Some(less) = bytes.len().checked_sub(1) {
            prop_assert_eq!(StatusList::unpack(&packed, less), Err(UnreadableList::TooLong(less)));
        }
    }

    #[test]
    fn nothing_that_is_sent_makes_it_fail(bits in any::<u8>(), lst in "[A-Za-z0-9_-]{0,200}") {
        let _ = StatusList::unpack(&packed(bits, &lst), 4096);
    }
}

const VECTORS: &[Vector] = &[
    Vector {
        bits: 1,
        indices: &[
            0, 1_993, 25_460, 159_495, 495_669, 554_353, 645_645, 723_232, 854_545, 934_534, 1_000_345,
        ],
        values: &[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
        lst: "eNrt3AENwCAMAEGogklACtKQPg9LugC9k_ACvreiogEAAKkeCQAAAAAAAAAAAAAAAAAAAIBylgQAAAAAAAAAAAAAAAAAAAAAAAAA\
            AAAAAAAAAAAAAAAAAAAAAAAAAAAAXG9IAAAAAAAAAPwsJAAAAAAAAAAAAAAAvhsSAAAAAAAAAAAA7KpLAAAAAAAAAAAAAAAAAAAA\
            AJsLCQAAAAAAAAAAADjelAAAAAAAAAAAKjDMAQAAAACAZC8L2AEb",
    },
    Vector {
        bits: 2,
        indices: &[
            0, 1_993, 25_460, 159_495, 495_669, 554_353, 645_645, 723_232, 854_545, 934_534, 1_000_345,
        ],
        values: &[1, 2, 1, 3, 1, 1, 2, 1, 1, 2, 3],
        lst: "eNrt2zENACEQAEEuoaBABP5VIO01fCjIHTMStt9ovGVIAAAAAABAbiEBAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAEB5\
            WwIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\
            AAAAAAAAAID0ugQAAAAAAAAAAAAAAAAAQG12SgAAAAAAAAAAAAAAAAAAAAAAAAAAAOCSIQEAAAAAAAAAAAAAAAAAAAAAAAD8ExIA\
            AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAwJEuAQAAAAAAAAAAAAAAAAAAAAAAAMB9SwIAAAAAAAAAAAAAAAAAAACoYUoA\
            AAAAAAAAAAAAAEBqH81gAQw",
    },
    Vector {
        bits: 4,
        indices: &[
            0, 1_993, 35_460, 459_495, 595_669, 754_353, 845_645, 923_232, 924_445, 934_534, 1_000_345,
            1_004_534, 1_030_203, 1_030_204, 1_030_205,
        ],
        values: &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 11, 13, 14, 15],
        lst: "eNrt0EENgDAQADAIHwImkIIEJEwCUpCEBBQRHOy35Li1EjoOQGabAgAAAAAAAAAAAAAAAAAAACC1SQEAAAAAAAAAAAAAAAAAAAAA\
            AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\
            AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\
            AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAABADrsCAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\
            AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAADoxaEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\
            AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAIIoCgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\
            AAAAAAAAAACArpwKAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAGhqVkAzlwIAAAAAiGVRAAAAAAAAAAAAAAAA\
            AAAAAAAAAAAAAAAAAAAAAAAAAABx3AoAgLpVAQAAAAAAAAAAAAAAwM89rwMAAAAAAAAAAAjsA9xMBMA",
    },
    Vector {
        bits: 8,
        indices: &[
            1_199, 4_520, 6_805, 13_628, 15_080, 19_535, 24_077, 30_949, 40_845, 44_112, 52_451, 55_649,
            62_489, 65_877, 66_653, 67_319, 83_344, 91_122, 96_100, 98_810, 105_156, 106_091, 113_605,
            117_310, 119_285, 119_884, 121_477, 122_648, 122_967, 123_467, 127_113, 127_837, 133_227,
            134_272, 138_807, 141_348, 142_524, 143_699, 145_149, 145_867, 148_598, 148_883, 149_741,
            152_133, 158_093, 165_165, 165_255, 167_335, 168_005, 171_931, 179_628, 182_323, 190_650,
            194_502, 195_586, 196_493, 197_815, 202_828, 203_278, 205_329, 206_397, 211_815, 214_350,
            214_947, 223_159, 229_153, 229_950, 233_941, 234_603, 240_232, 251_420, 253_764, 261_779,
            263_738, 269_256, 274_471, 277_478, 290_102, 292_632, 292_826, 293_983, 299_623, 320_527,
            320_531, 324_632, 326_064, 330_160, 331_680, 334_829, 335_506, 338_792, 341_110, 342_679,
            345_269, 346_296, 348_779, 358_903, 374_660, 384_802, 389_703, 398_244, 398_896, 399_318,
            401_793, 403_258, 416_992, 417_146, 421_844, 428_362, 439_368, 442_463, 444_173, 445_910,
            448_260, 449_287, 451_545, 456_551, 458_517, 459_948, 460_566, 461_829, 462_297, 468_106,
            471_224, 477_937, 480_125, 480_348, 482_585, 487_925, 488_197, 493_258, 495_723, 499_131,
            500_560, 502_167, 505_144, 509_602, 513_405, 513_575, 516_351, 517_215, 519_895, 521_470,
            523_882, 527_253, 546_865, 551_009, 552_366, 554_740, 555_493, 555_864, 556_171, 557_034,
            559_572, 559_893, 561_493, 566_121, 576_778, 582_738, 582_952, 583_408, 584_009, 584_151,
            598_210, 606_890, 614_839, 615_514, 622_241, 625_884, 629_139, 644_903, 653_716, 657_676,
            658_891, 659_927, 661_552, 663_071, 663_475, 679_804, 680_070, 692_958, 705_889, 709_016,
            711_569, 713_399, 713_557, 721_327, 743_015, 745_056, 752_834, 758_403, 759_161, 761_225,
            765_108, 776_325, 783_119, 784_154, 793_844, 794_764, 795_775, 796_765, 797_182, 800_313,
            806_915, 818_773, 829_700, 830_023, 836_747, 837_603, 841_042, 841_303, 844_358, 846_778,
            852_312, 853_666, 862_143, 879_178, 879_796, 884_749, 884_834, 885_333, 886_286, 887_110,
            887_384, 888_308, 898_490, 903_979, 911_768, 918_762, 929_312, 940_810, 942_059, 946_835,
            950_870, 951_527, 954_221, 958_869, 962_282, 963_483, 969_429, 970_201, 979_421, 981_571,
            991_262, 991_896, 996_739, 999_897, 1_009_481, 1_017_987, 1_018_463, 1_019_195, 1_020_623,
            1_024_680, 1_034_977, 1_046_963,
        ],
        values: &[
            121, 213, 112, 20, 156, 255, 103, 201, 124, 153, 1, 14, 10, 161, 9, 70, 240, 35, 44, 93, 228,
            200, 181, 68, 231, 227, 129, 224, 210, 158, 183, 225, 98, 151, 74, 160, 235, 234, 134, 43, 163,
            157, 59, 254, 197, 131, 39, 47, 232, 241, 132, 7, 92, 29, 202, 11, 174, 31, 175, 199, 182, 49,
            28, 6, 115, 186, 94, 107, 125, 104, 238, 148, 37, 135, 136, 250, 168, 90, 5, 83, 191, 81, 118,
            95, 220, 25, 230, 110, 21, 96, 120, 54, 62, 211, 138, 204, 60, 114, 193, 233, 221, 189, 173, 188,
            42, 15, 117, 142, 245, 57, 75, 141, 77, 208, 167, 26, 223, 12, 89, 66, 155, 17, 4, 150, 45, 159,
            69, 154, 13, 48, 236, 203, 164, 247, 128, 130, 170, 61, 3, 239, 84, 149, 187, 196, 102, 244, 85,
            113, 34, 82, 139, 215, 248, 105, 58, 73, 65, 2, 24, 51, 19, 165, 194, 217, 46, 40, 108, 222, 116,
            251, 127, 143, 226, 246, 76, 71, 253, 243, 122, 67, 162, 27, 152, 185, 106, 23, 33, 177, 56, 32,
            41, 88, 126, 53, 55, 145, 119, 38, 212, 64, 30, 50, 100, 99, 214, 79, 249, 144, 87, 209, 72, 184,
            237, 205, 172, 179, 242, 16, 192, 8, 97, 22, 218, 140, 178, 86, 176, 109, 146, 198, 190, 18, 147,
            52, 111, 216, 252, 80, 36, 63, 195, 180, 101, 169, 171, 137, 229, 207, 166, 206, 133, 219, 123,
            91, 78,
        ],
        lst: "eNrt0WOQM2kYhtGsbdu2bdu2bdu2bdu2bdu2jVnU1my-SWYm6U5enFPVf7ue97orFYAo7CQBAACQuuckAABStqUEAAAAAAAAtN6w\
            EgAE71QJAAAAAIrwhwQAAAAAAdtAAgAAAAAAACLwkAQAAAAAAAAAAACUaFcJAACAeJwkAQAAAAAAAABQvL4kAAAAWmJwCQAAAAAA\
            AAjAwBIAAAB06ywJoDKQBARpfgkAAAAAAAAAAAAAAAAAAACo50sJAAAAAAAAAOiRcSQAAAAAgAJNKgEAAG23mgQAAAAAAECw3pUA\
            QvegBAAAAAAAAADduE4CAAAAyjSvBAAQiw8koHjvSABAb-wlARCONyVoxtMSZOd0CQAAAOjWDRKQmLckAAAAAACysLYEQGcnSAAA\
            AAAQooUlAABI15kSAIH5RAIgLB9LABC4_SUgGZNIAABAmM6RoLbTJIASzCIBAEAhfpcAAAAAAABquk8CAAAAAAAAaJl9SvvzBOIC\
            AFWmkIBgfSgBAAAANOgrCQAAAAAAAADStK8EAAC03gASAAAAAAAAAADFWFUCAAAAMjOaBEADHpYAQjCIBADduFwCAAAAAGitMSSI\
            3BUSAECOHpAA6IHrJQAAAAAAsjeVBAAAKRpVAorWvwQAAAAAAAAAkKRtJAAAAAAAgCbcLAF0bXUJAAAAoF02kYDg7CYBAAAAAEB6\
            NpQAAAAAAAAAAAAAAEr1uQQAAF06VgIAAAAAAAAAqDaeBAAQqgMkAAAAAABogQMlAAAAAAAa87MEAAAQiwslAAAAAAAAAAAAAAAA\
            MrOyBAAAiekv-hcsY0Sgne6QAAAAAAAgaUtJAAAAAAAAAAAAAAAAAAAAAAAAAADwt-07vjVkAAAAgDy8KgFAUEaSAAAAAJL3vgQA\
            WdhcAgAAoBHDSUDo1pQAAACI2o4SAABZm14CALoyuwQAAPznGQkgZwdLAAAQukclAAAAAAAAAAAAgKbMKgEAAAAAAAAAAAAAAAAA\
            AECftpYAAAAAAAAAAAAACnaXBAAAAADk7iMJAAAAAAAAAABqe00CAnGbBBG4TAIAgFDdKgFAXCaWAAAAAAAAAAAAAAAAAKAJQwR7\
            2XbGAQAAAKAhh0sAAAAAAABQgO8kAAAAAAAAAAAAACAaM0kAAAC5W0QCAIJ3mAQAxGwxCQAA6nhSAsjZBRIAANEbWQIAAAAAaJE3\
            JACAwA0qAUBIVpKAlphbAiAPp0iQnKEkAAAAAAAgBP1KAAAAdOl4CQAAAAAAAPjLZBIAAG10RtrPm8_CAEBMTpYAAAAAAIjQYBL8\
            z5QSAAAAAEDYPpUAACAsj0gAAADQkHMlAAjHDxIA0Lg9JQAAgHDsLQEAAABAQS6WAAAAgLjNFs2l_RgLAIAEfCEBlGZZCQAAaIHj\
            JACgtlskAAAozb0SAAAAVFtfAgAAAAAAAAAAAAAAAAAAAAAAAKDDtxIAAAAAVZaTAKB5W0kAANCAsSUgJ0tL0GqHSNBbL0gAZflR\
            AgCARG0kQXNmlgCABiwkAQAAAEB25pIAAAAAAAAAAAAAoFh9SwAAAAAAADWNmOSrpjFsEoaRgDKcF9Q1dxsEAAAAAAAAAAAAAAAA\
            gPZ6SQIAAAAAAAAAgChMLgEAAAAAAAAAqZlQAsK2qQQAAAAAAAD06XUJAAAAqG9bCQAAgLD9IgEAAAAAAAAAAAAAAAAAAEBNe0gA\
            AAAAAAAAAEBPHSEBAAAAlOZtCYA4fS8B0GFRCQAo0gISAOTgNwmC840EAAAAAAAAAAAAAAAAAAAAUJydJfjXPBIAAAAAAAAAAAAA\
            AABk6WwJAAAAAAAAAAAAAAAAqG8UCQAAgPpOlAAAIA83SQAANWwc9HUjGAgAAAAAAACAusaSAAAAAAAAAAAAAAAAAAAAAAAAAAAA\
            qHKVBACQjxklAAAAAAAAAKBHxpQAAAAAACBME0lAdlaUAACyt7sEAAAA0Nl0EgAAAAAAAAAAAABA-8wgAQAAAAAAAKU4SgKgUtlB\
            AgAAAAAAAAAAgMCMLwEE51kJICdzSgCJGl2CsE0tAQAA0L11JQAAAAAAAAjUOhIAAAAAAAAAAAAAAGTqeQkAAAAAAAAAAAAAKM8S\
            EjTrJwkAAAAAAACocqQEULgVJAAAACjDUxJUKgtKAAAAqbpRAgCA0n0mAQAAAABAGzwmAUCTLpUAAAAAAAAAAEjZNRIAAAAAAAAA\
            AAAAAAAAAAAA8I-vJaAlhpQAAAAAAHrvzjJ-OqCuuVlLAojP8BJAr70sQZVDJYAgXS0BAAAAAAAAAAAAtMnyEgAAAAAAFONKCQAA\
            AAAAAADorc0kAAAAAAAAgDqOlgAAAAAAAAAAAADIwv0SAAAAAAAAAAAAAADBuV0CIFVDSwAAAABAAI6RAAAAAGIwrQSEZAsJAABo\
            uRclAAAAAKDDrxIAAAA0bkkJgFiMKwEAAAAAAHQyhwRk7h4JAAAAAAAAAAAgatdKAACUYj0JAAAAAAAAAAAAQnORBLTFJRIAAAAA\
            kIaDJAAAAJryngQAAAAAAAAAAAA98oQEAAAAAAAAAEC2zpcgWY9LQKL2kwAgGK9IAAAAAPHaRQIAAAAAAAAAAADIxyoSAAAAAAAA\
            AAAAAADQFotLAECz_gQ1PX-B",
    },
];
