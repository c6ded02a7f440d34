//! A random history: what our flows do, and what a stranger does meanwhile.

use std::fmt;

use infrastructure_contractor::config::Method;
use rand::{Rng, SeedableRng, rngs::StdRng};

/// A history.
#[derive(Clone, Debug, PartialEq)]
pub struct Story {
    /// How our machines get their disks.
    pub method: Method,
    /// What happens, in order.
    pub chapters: Vec<Chapter>,
}

/// What one of our flows does, and what the stranger does while it is at it.
#[derive(Clone, Debug, PartialEq)]
pub struct Chapter {
    /// What we do.
    pub act: Act,
    /// How it goes.
    pub twist: Twist,
    /// What the stranger does, just before we look for that many'th time; the rest when the flow is at rest.
    pub deeds: Vec<(u32, Deed)>,
}

/// What one of our flows does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// A cluster's machines are made.
    Provision,
    /// The cluster is ready: its machines are protected.
    Ready,
    /// One worker more.
    Up,
    /// One worker less: its machine is released.
    Down,
    /// The cluster goes.
    Decommission,
}

/// How a flow goes besides what the stranger does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Twist {
    /// By itself.
    Plain,
    /// It fails at one of its steps and follows its failure policy.
    Fails(Step),
    /// It is undone after its success.
    Undone,
    /// The process dies at a commit, and another one goes on.
    Dies(u64),
}

/// Where a flow is made to fail, after the step was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The machine is made.
    Create,
    /// It is switched on.
    Start,
    /// It answers.
    Answer,
}

/// What a stranger does. `of` counts our machines, as many as there are.
#[derive(Clone, Debug, PartialEq)]
pub enum Deed {
    /// Makes a VM under the id of a machine that has none yet.
    Squat { of: usize, guise: Guise },
    /// Removes ours by hand, and makes another VM under its id.
    Replace { of: usize, guise: Guise },
    /// Makes a VM under another id.
    Imitate { of: usize, guise: Guise },
    /// Restores a backup of ours under another id, with new MACs or the old ones.
    Restore { of: usize, unique: bool, guise: Guise },
    /// Makes a VM that uses a disk with the name of one of ours.
    Borrow { of: usize },
    /// Changes something about ours.
    Edit { of: usize, part: Part },
    /// Puts back what was changed about ours.
    Mend { of: usize },
    /// Moves ours to another host.
    Move { of: usize, to: usize },
    /// Removes ours.
    Remove { of: usize },
    /// Moves a VM of the stranger's.
    MoveOwn { nth: usize, to: usize },
    /// Removes a VM of the stranger's.
    RemoveOwn { nth: usize },
}

/// What a stranger's VM has in common with a machine of ours, and how it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Guise {
    pub name: bool,
    pub tags: bool,
    pub description: bool,
    pub mac: bool,
    pub uuid: bool,
    /// In the pool on which our rights are.
    pub in_pool: bool,
    pub on: bool,
}

/// What can be changed about a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Name,
    Tags,
    Description,
    Mac,
    Uuid,
    Memory,
    Protection,
    /// Everything that tells whose it is.
    All,
}

impl Part {
    /// Whether the VM is not provably ours any more.
    pub fn breaks_the_proof(self) -> bool {
        !matches!(self, Self::Name | Self::Memory | Self::Protection)
    }

    /// The same of a clone whose hardware is not set yet: only its description proves it.
    pub fn breaks_the_proof_of_a_half_clone(self) -> bool {
        matches!(self, Self::Description | Self::All)
    }
}

impl Story {
    /// The history of a seed: of two that follow each other one is with imported images and one with clones.
    pub fn of(seed: u64) -> Self {
        let method = if seed.is_multiple_of(2) { Method::Import } else { Method::Clone };
        let mut dice = StdRng::seed_from_u64(seed);
        let mut chapters = Vec::new();
        for act in [Act::Provision, Act::Ready, Act::Up, Act::Down, Act::Decommission] {
            let optional = !matches!(act, Act::Provision | Act::Ready);
            if optional && dice.random_ratio(2, 5) {
                continue;
            }
            let count = dice.random_range(0..4_usize);
            let mut deeds: Vec<_> = (0..count).map(|_| (look(&mut dice, act), Deed::random(&mut dice))).collect();
            deeds.sort_by_key(|(call, _)| *call);
            chapters.push(Chapter { act, twist: Twist::random(&mut dice, act), deeds });
        }
        Self { method, chapters }
    }

    /// Histories that are a little shorter.
    pub fn shorter(&self) -> Vec<Self> {
        let with = |change: &dyn Fn(&mut Self)| {
            let mut shorter = self.clone();
            change(&mut shorter);
            shorter
        };
        let mut found: Vec<Self> = (1..self.chapters.len()).map(|at| with(&|it| it.chapters.truncate(at))).collect();
        for (at, chapter) in self.chapters.iter().enumerate() {
            found.push(with(&|it| _ = it.chapters.remove(at)));
            found.extend((0..chapter.deeds.len()).map(|deed| with(&|it| _ = it.chapters[at].deeds.remove(deed))));
            if chapter.twist != Twist::Plain {
                found.push(with(&|it| it.chapters[at].twist = Twist::Plain));
            }
        }
        found.retain(|shorter| !shorter.chapters.is_empty());
        found
    }
}

/// When a deed is done; often just when machines that were reserved are made.
fn look(dice: &mut StdRng, act: Act) -> u32 {
    let among = if act.makes() && dice.random() { 10..26 } else { 0..50 };
    dice.random_range(among)
}

impl Act {
    /// Whether machines are made.
    fn makes(self) -> bool {
        matches!(self, Self::Provision | Self::Up)
    }
}

impl Twist {
    fn random(dice: &mut StdRng, act: Act) -> Self {
        let makes = act.makes();
        let step = [Step::Create, Step::Start, Step::Answer][dice.random_range(0..3)];
        let undone_too_early = act == Act::Provision && dice.random_ratio(1, 2);
        match dice.random_range(0..6) {
            0 | 1 if makes && !undone_too_early => Self::Fails(step),
            2 if makes && !undone_too_early => Self::Undone,
            3 => Self::Dies(dice.random_range(1..30)),
            _ => Self::Plain,
        }
    }
}

impl Deed {
    fn random(dice: &mut StdRng) -> Self {
        let (of, to) = (dice.random_range(0..3), dice.random_range(0..3));
        let guise = Guise::random(dice);
        match dice.random_range(0..14) {
            0 | 1 => Self::Squat { of, guise },
            2 | 3 => Self::Replace { of, guise },
            4 => Self::Imitate { of, guise },
            5 => Self::Restore { of, unique: dice.random(), guise },
            6 => Self::Borrow { of },
            7..=9 => {
                use Part::{All, Description, Mac, Memory, Name, Protection, Tags, Uuid};
                let parts = [Name, Tags, Description, Mac, Uuid, Memory, Protection, All];
                Self::Edit { of, part: parts[dice.random_range(0..parts.len())] }
            }
            10 => Self::Mend { of },
            11 => Self::Move { of, to },
            12 => Self::Remove { of },
            _ if dice.random() => Self::MoveOwn { nth: of, to },
            _ => Self::RemoveOwn { nth: of },
        }
    }
}

impl Guise {
    fn random(dice: &mut StdRng) -> Self {
        // What a clone of ours shows that has no hardware yet, as far as everybody can work it out.
        if dice.random_ratio(1, 4) {
            return Self {
                name: dice.random(),
                description: true,
                in_pool: true,
                on: dice.random(),
                ..Self::default()
            };
        }
        let mut guise = Self {
            name: dice.random(),
            tags: dice.random(),
            description: dice.random(),
            mac: dice.random(),
            uuid: dice.random_ratio(1, 4),
            in_pool: dice.random_ratio(3, 4),
            on: dice.random(),
        };
        // With all of them under our id it would be ours, restored in place.
        guise.mac &= !(guise.tags && guise.description && guise.uuid);
        guise
    }
}

impl fmt::Display for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: ", self.method)?;
        for (at, Chapter { act, twist, deeds }) in self.chapters.iter().enumerate() {
            let gap = if at == 0 { "" } else { "; " };
            write!(f, "{gap}{act:?}")?;
            if *twist != Twist::Plain {
                write!(f, " ({twist:?})")?;
            }
            for (call, deed) in deeds {
                write!(f, ", at look {call} {deed}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Deed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Squat { of, guise } => write!(f, "squat on {of} as {guise}"),
            Self::Replace { of, guise } => write!(f, "replace {of} by {guise}"),
            Self::Imitate { of, guise } => write!(f, "imitate {of} as {guise}"),
            Self::Restore { of, unique, guise } => {
                write!(f, "restore {of} elsewhere{}, {guise}", if *unique { " with new MACs" } else { "" })
            }
            other => write!(f, "{other:?}"),
        }
    }
}

impl fmt::Display for Guise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, tags, description, mac, uuid, in_pool, on } = *self;
        let parts = [
            (name, "name"),
            (tags, "tags"),
            (description, "description"),
            (mac, "mac"),
            (uuid, "uuid"),
            (in_pool, "in pool"),
            (on, "on"),
        ];
        let own: Vec<_> = parts.into_iter().filter_map(|(has, part)| has.then_some(part)).collect();
        write!(f, "[{}]", own.join(" "))
    }
}
