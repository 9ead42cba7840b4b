//! x
#[test]
fn t() {
    use verify::*;
    let n: u64 = std::env::var("N").map_or(200, |n| n.parse().unwrap());
    let what = std::env::var("X").unwrap_or_default();
    let mut ex: Vec<Box<dyn executor::Executor>> = vec![];
    if what.contains('m') {
        ex.push(Box::new(executor::Model));
    }
    if what.contains('w') {
        ex.push(Box::new(executor::Walker { oracle: model::oracle::forward }));
    }
    if what.contains('e') {
        ex.push(Box::new(executor::Programs {
            run: test_run::TestRun::new().unwrap(),
            oracle: model::oracle::forward,
        }));
    }
    let mut out = run::Outcome::default();
    for i in 0..n {
        out.generated((std::env::var("S").map_or(1, |n| n.parse().unwrap()), i), &mut ex).unwrap();
        if out.differences.len() > 2 {
            break;
        }
    }
    println!("{}", serde_json::to_string(&out.tallies).unwrap());
    for d in out.differences {
        println!("{}", d.to_yaml().unwrap());
    }
}
