//! The world: its devices, connections and adversaries, and what happens in it step by step.

use std::collections::BTreeMap;

use bluetrace_authority::Scheme;
use bluetrace_authority::store::Store;
use bluetrace_protocol::session::client::ClientSession;
use bluetrace_protocol::{Beacon, Heard, Record, TempId, Timestamp, UploadId, Window, judge};

use crate::desk::{Connection, Desk, Seen, at_once};
use crate::device::{Device, Dice, Told};
use crate::model::{Rules, is_within};

pub(crate) struct World {
    dice: Dice,
    desk: Desk,
    devices: Vec<Device>,
    connections: BTreeMap<u32, Connection>,
    last_link: u32,
    last_upload: u32,
    /// Every beacon that was sent: adversaries hear everything.
    captured: Vec<Vec<u8>>,
    /// Beacons on their way to a device.
    air: Vec<(usize, Vec<u8>)>,
    is_told: bool,
}

/// Connections do not outlive a silence of this length.
const IDLE_S: i64 = 30 * 60;

impl World {
    pub(crate) fn new(seed: u64, is_told: bool) -> Self {
        let mut dice = Dice::new(seed);
        let rules = Rules {
            scheme: *dice.pick(&[Scheme::Registry, Scheme::Sealed]),
            key_period_s: *dice.pick(&[600, 3_600, 86_400]),
            lifetime_s: *dice.pick(&[20, 60, 900]),
            retention_s: *dice.pick(&[300, 7_200, 86_400]),
            block_s: *dice.pick(&[0, 5, 60, 60]),
            resume_s: *dice.pick(&[20, 1_800]),
            log_s: *dice.pick(&[30, 180, 3_600]),
        };
        let mut world = Self {
            desk: Desk::new(rules.clone(), Timestamp::parse("13/05/2020 17:54:06").unwrap().into()),
            devices: Vec::new(),
            connections: BTreeMap::new(),
            last_link: 0,
            last_upload: 0,
            captured: Vec::new(),
            air: Vec::new(),
            is_told,
            dice,
        };
        world.tell(|_| format!("{rules:?}"));
        for user in 0..3 + world.dice.below(2) {
            let (name, password) = (format!("+6141099999{user}"), format!("password {user}"));
            world.desk.open_account(&name, &password);
            let mistakes = *world.dice.pick(&[0, 10, 40]);
            let name = world.desk.model.users[user].name.clone();
            world.devices.push(Device::new(name, password, rules.log_s, mistakes));
            if world.dice.chance(80) {
                world.connect(user);
            }
        }
        world.let_flow();
        world
    }

    /// Lets `steps` things happen, and everybody come to rest afterwards.
    pub(crate) fn run(mut self, steps: u32) -> Seen {
        for step in 0..steps {
            self.step();
            for _ in 0..self.dice.below(5) {
                self.pump();
            }
            self.check_devices();
            if step % 8 == 0 {
                self.desk.check();
            }
        }
        self.come_to_rest();
        self.desk.seen
    }

    fn tell(&self, what: impl FnOnce(&Self) -> String) {
        if self.is_told {
            println!("{:?} {}", self.desk.moment(), what(self));
        }
    }

    fn step(&mut self) {
        let device = self.dice.below(self.devices.len());
        let dice = self.dice.below(100);
        match dice {
            0..15 => self.connect(device),
            15..20 => self.ask(device, "downloads", |_, session, dice, out| {
                session.download(u32::try_from(1 + dice.below(4)).unwrap(), (), out);
            }),
            20..31 => self.send_beacon(device),
            31..36 => self.stutter(device),
            36..40 => self.arrive_late(),
            40..44 => self.replay(device),
            44..46 => self.forge(device),
            46..56 => self.pass(),
            56..65 => self.upload(device),
            65..71 => self.cut_one(),
            71..72 => self.restart_authority(),
            72..74 => self.restart_device(device),
            74..77 => self.log_out(device),
            77..83 => self.ask_notices(device),
            83..87 => self.ask(device, "asks for a token", |_, session, _, out| session.resume_token((), out)),
            87..91 => self.guess(),
            91..94 => self.try_token(),
            94..95 => self.change_password(device),
            95..97 => self.expire(),
            97..98 => self.close_in_good_order(device),
            _ => self.let_flow(),
        }
    }

    // ---- devices

    fn connect(&mut self, device: usize) {
        let now = self.desk.now();
        if self.devices[device].link.is_some() || now < self.devices[device].retry_at {
            return;
        }
        // some come without their token, as after a crash
        if self.dice.chance(30) {
            self.devices[device].token = None;
        }
        self.last_link += 1;
        let mut connection = Connection::new(Some(device));
        self.devices[device].connected(self.last_link, &mut connection.to_server);
        self.connections.insert(self.last_link, connection);
        self.tell(|_| format!("device {device} connects"));
    }

    /// A device that is logged in asks something.
    fn ask(
        &mut self,
        device: usize,
        what: &str,
        asks: impl FnOnce(&mut Device, &mut ClientSession<()>, &mut Dice, &mut Vec<u8>),
    ) {
        let one = &mut self.devices[device];
        let Some(connection) = one.link.filter(|_| one.is_member()).and_then(|link| self.connections.get_mut(&link))
        else {
            return;
        };
        let Some(mut session) = one.session.take() else { return };
        asks(one, &mut session, &mut self.dice, &mut connection.to_server);
        one.session = Some(session);
        self.tell(|_| format!("device {device} {what}"));
    }

    /// The connection of a device is cut while it uploads, and the device is back before the authority has noticed: for a
    /// while there are two, and on both come records of one upload.
    fn stutter(&mut self, device: usize) {
        if !self.devices[device].is_member() {
            self.connect(device);
            self.let_flow();
        }
        for _ in 0..8 {
            self.replay(device);
        }
        self.upload(device);
        let Some(link) = self.devices[device].link.filter(|_| self.devices[device].is_uploading) else { return };
        for _ in 0..self.dice.below(12) {
            self.pump_one(link);
        }
        self.cut(link);
        let retry_at = self.devices[device].retry_at;
        self.pass_ms(1_000 * retry_at.seconds_since(self.desk.now()).max(0));
        self.connect(device);
        let Some(new_link) = self.devices[device].link else { return };
        for _ in 0..8 + self.dice.below(16) {
            self.pump_one(new_link);
        }
        for _ in 0..self.dice.below(6) {
            self.pump_one(link);
        }
    }

    fn ask_notices(&mut self, device: usize) {
        if self.devices[device].asked_notices == 0 {
            self.ask(device, "asks for notices", |device, session, _, out| {
                device.asked_notices += 1;
                session.notices((), out);
            });
        }
    }

    fn log_out(&mut self, device: usize) {
        if self.devices[device].asked_notices == 0 {
            self.ask(device, "logs out", |device, session, _, out| {
                device.is_leaving = true;
                session.logout((), out);
            });
        }
    }

    fn upload(&mut self, device: usize) {
        let one = &mut self.devices[device];
        if one.pending.is_none() && !one.log.is_empty() {
            self.last_upload += 1;
            let id = UploadId::parse(&format!("upload-{}", self.last_upload)).unwrap();
            one.pending = Some((id.clone(), one.log.to_entries().into()));
            let records = one.pending.as_ref().map(|(_, records)| records.clone()).unwrap();
            self.desk.model.planned.insert((device, id), records);
        }
        self.ask(device, "uploads", |device, session, _, out| device.begin_upload(session, out));
    }

    fn restart_device(&mut self, device: usize) {
        if let Some(link) = self.devices[device].link {
            self.cut(link);
        }
        let now = self.desk.now();
        self.devices[device].restart(now);
        self.desk.seen.note("a device restarted");
        self.tell(|_| format!("device {device} restarts"));
    }

    fn close_in_good_order(&mut self, device: usize) {
        let Some(link) = self.devices[device].link.filter(|_| self.devices[device].asked_notices == 0) else { return };
        let Some(connection) = self.connections.get_mut(&link) else { return };
        connection.is_closed = true;
        connection.device = None;
        connection.to_client.clear();
        self.devices[device].lost(&mut self.dice, self.desk.now());
        self.desk.seen.note("a connection closed in good order");
        self.tell(|_| format!("device {device} closes its connection"));
    }

    fn check_devices(&self) {
        let now = self.desk.now();
        for (user, device) in self.devices.iter().enumerate() {
            for entry in device.log.iter() {
                assert!(is_within(entry.record.window, entry.received), "a beacon outside its window is in a log");
                assert!(
                    now.seconds_since(entry.received) < i64::from(self.desk.model.rules.log_s),
                    "a log forgets late"
                );
            }
            if let Some(current) = device.book.current(now) {
                let owner = self.desk.model.owner_of(&current.temp_id);
                assert_eq!(owner, Some((user, current.window)), "a device shows what is not its own");
                assert!(is_within(current.window, now));
            }
            for notice in &self.desk.model.users[user].notices {
                assert!(!notice.is_read || device.known.contains(&notice.content), "a notice is read and was not told");
            }
            for known in &device.known {
                let notices = &self.desk.model.users[user].notices;
                assert!(notices.iter().any(|notice| notice.content == *known), "a notice was told that is nobody's");
            }
        }
    }

    // ---- beacons

    fn send_beacon(&mut self, device: usize) {
        let Some(record) = self.devices[device].book.current(self.desk.now()).cloned() else { return };
        let datagram = Beacon { record }.reveal().into_bytes();
        self.captured.push(datagram.clone());
        let to = self.dice.below(self.devices.len());
        self.tell(|_| format!("device {device} beacons device {to}"));
        if self.dice.chance(30) {
            self.air.push((to, datagram));
            return;
        }
        // who stays near is heard again and again
        for _ in 0..=self.dice.below(6) {
            self.hear(to, &datagram);
        }
    }

    fn arrive_late(&mut self) {
        if !self.air.is_empty() {
            let place = self.dice.below(self.air.len());
            let (to, datagram) = self.air.swap_remove(place);
            self.hear(to, &datagram);
        }
    }

    fn replay(&mut self, device: usize) {
        if !self.captured.is_empty() {
            let datagram = self.dice.pick(&self.captured).clone();
            self.hear(device, &datagram);
        }
    }

    /// An adversary changes what was captured: the window, the id, or any byte.
    fn forge(&mut self, device: usize) {
        if self.captured.is_empty() {
            return;
        }
        let mut datagram = self.dice.pick(&self.captured).clone();
        let now = self.desk.now();
        let Ok(Beacon { record: Record { temp_id, .. } }) = Beacon::parse(&datagram) else { return };
        let fresh = Window::new(now.plus(-5), now.plus(600)).unwrap();
        let forged = match self.dice.below(3) {
            0 => Record { temp_id, window: fresh },
            1 => Record { temp_id: TempId::random(&mut self.dice.0), window: fresh },
            _ => {
                let place = self.dice.below(datagram.len());
                datagram[place] = *self.dice.pick(b"0123456789/:, x");
                return self.hear(device, &datagram);
            }
        };
        self.hear(device, Beacon { record: forged }.reveal().as_bytes());
    }

    fn hear(&mut self, device: usize, datagram: &[u8]) {
        let now = self.desk.now();
        let heard = judge(datagram, now);
        self.desk.seen.note(match &heard {
            Heard::Valid(_) => "a beacon logged",
            Heard::Invalid(_) => "a beacon refused",
            Heard::Dropped(_) => "a datagram dropped",
        });
        let Heard::Valid(record) = heard else { return };
        if let Some((owner, window)) = self.desk.model.owner_of(&record.temp_id)
            && is_within(window, now)
        {
            self.desk.model.meetings.insert((device, owner));
        }
        self.devices[device].log.heard(record, now);
    }

    // ---- strangers and operators

    /// Somebody tries names and passwords, on a connection of his own.
    fn guess(&mut self) {
        let user = self.dice.below(self.devices.len() + 2);
        let (name, password) = match self.desk.model.users.get(user) {
            Some(user) => (user.name.reveal().to_owned(), user.password.clone()),
            None => (format!("+6149999999{user}"), "None".to_owned()),
        };
        let mut text = format!("{name}\n");
        for _ in 0..=self.dice.below(4) {
            text += if self.dice.chance(15) { &password } else { "a guess" };
            text.push('\n');
        }
        self.tell(|_| format!("somebody guesses as {user}"));
        self.say(text.as_bytes());
    }

    fn try_token(&mut self) {
        let tokens: Vec<_> = self.desk.model.tokens.keys().cloned().collect();
        if !tokens.is_empty() {
            let token = self.dice.pick(&tokens);
            self.say(format!("RESUME {token}\n").as_bytes());
        }
    }

    /// A connection of somebody's that says this, and ends.
    fn say(&mut self, text: &[u8]) {
        let mut connection = Connection::new(None);
        connection.to_server.extend_from_slice(text);
        while !connection.to_server.is_empty() {
            let count = 1 + self.dice.below(connection.to_server.len());
            connection.arrive(count, true, &mut self.desk);
        }
    }

    fn change_password(&mut self, device: usize) {
        let password = format!("{} again", self.devices[device].password);
        self.desk.change_password(device, &password);
        self.devices[device].password = password;
        self.tell(|_| format!("the password of device {device} is changed"));
    }

    fn restart_authority(&mut self) {
        for link in self.connections.keys().copied().collect::<Vec<_>>() {
            self.cut(link);
        }
        self.connections.clear();
        self.desk.restart();
        self.desk.seen.note("an authority restarted");
        self.tell(|_| "the authority restarts".to_owned());
    }

    fn expire(&mut self) {
        while at_once(self.desk.store.expire(self.desk.now())).unwrap().more {}
        let kept = at_once(self.desk.authority.keep_keys(self.desk.now())).unwrap();
        self.desk.seen.count("a sealing key made ahead", kept.made.into());
        self.desk.seen.count("a sealing key destroyed", kept.shredded.into());
        self.tell(|_| "the authority forgets".to_owned());
    }

    // ---- time and connections

    fn pass(&mut self) {
        let ends = self.desk.model.ends(self.desk.moment());
        if !ends.is_empty() && self.dice.chance(25) {
            // to the last second or millisecond of something, or to the first without it
            let end = self.dice.pick(&ends).milliseconds_since(self.desk.moment());
            let beside = *self.dice.pick(&[-1_000, -1, 0, 1, 1_000]);
            return self.pass_ms((end + beside).max(0));
        }
        let seconds = match self.dice.below(100) {
            0..47 => self.dice.seconds(1, 30),
            47..80 => self.dice.seconds(30, 1_200),
            80..93 => self.dice.seconds(1_200, 6 * 3_600),
            _ => i64::from(self.desk.model.rules.retention_s) + self.dice.seconds(-2, 2),
        };
        // most things happen within a second, and not at its begin
        let within = *self.dice.pick(&[0, 1, 500, 999]);
        self.pass_ms(1_000 * seconds + within);
    }

    fn pass_ms(&mut self, milliseconds: i64) {
        if milliseconds >= 1_000 * IDLE_S {
            for link in self.connections.keys().copied().collect::<Vec<_>>() {
                self.cut(link);
            }
            self.connections.clear();
        }
        let before = self.desk.now();
        self.desk.pass_ms(milliseconds);
        let now = self.desk.now();
        for device in &mut self.devices {
            device.log.expire(now);
        }
        let notices = self.desk.model.users.iter().flat_map(|user| &user.notices);
        let forgotten =
            notices.filter(|notice| !notice.is_read && before < notice.forget_at && notice.forget_at <= now);
        self.desk.seen.count("a notice forgotten unread", forgotten.count() as u64);
        self.tell(|_| format!("{milliseconds} ms have passed"));
    }

    fn cut_one(&mut self) {
        let links: Vec<_> = self.connections.keys().copied().collect();
        if !links.is_empty() {
            let link = *self.dice.pick(&links);
            self.cut(link);
        }
    }

    /// Cuts a connection: of what was on its way some still arrives, at either end, and the rest is lost.
    fn cut(&mut self, link: u32) {
        let Some(mut connection) = self.connections.remove(&link) else { return };
        let arriving = self.dice.below(connection.to_client.len() + 1);
        if let Some(device) = connection.device {
            self.receive(device, &mut connection, arriving);
            self.devices[device].lost(&mut self.dice, self.desk.now());
            self.desk.seen.note("a connection cut");
            self.tell(|_| format!("the connection of device {device} is cut"));
        }
        connection.device = None;
        connection.to_client.clear();
        // the server may learn of the cut later than the device connects anew
        let arriving = self.dice.below(connection.to_server.len() + 1);
        connection.to_server.truncate(arriving);
        connection.is_closed = false;
        if arriving > 0 && connection.session.is_some() {
            self.connections.insert(link, connection);
        }
    }

    /// Lets everything under way arrive.
    fn let_flow(&mut self) {
        let mut pumps = 0;
        while self.pump() {
            pumps += 1;
            assert!(pumps < 100_000, "a session goes on for ever");
        }
    }

    /// Lets some bytes of one connection arrive. `false` if there are none anywhere.
    fn pump(&mut self) -> bool {
        let is_busy = |connection: &Connection| {
            !connection.to_server.is_empty()
                || !connection.to_client.is_empty()
                || connection.device.is_none()
                || connection.session.is_none()
        };
        let links: Vec<_> =
            self.connections.iter().filter(|(_, connection)| is_busy(connection)).map(|(link, _)| *link).collect();
        if links.is_empty() {
            return false;
        }
        let link = *self.dice.pick(&links);
        self.pump_one(link);
        true
    }

    /// Lets some bytes of this connection arrive, if there are any.
    fn pump_one(&mut self, link: u32) {
        let Some(mut connection) = self.connections.remove(&link) else { return };
        let is_upward = connection.to_client.is_empty() || !connection.to_server.is_empty() && self.dice.chance(50);
        if is_upward && !connection.to_server.is_empty() {
            let count = self.some_of(connection.to_server.len());
            let is_pause = count == connection.to_server.len() || self.dice.chance(50);
            connection.arrive(count, is_pause, &mut self.desk);
            self.desk.seen.count("bytes to the authority", count as u64);
        } else if let Some(device) = connection.device {
            let count = self.some_of(connection.to_client.len());
            self.receive(device, &mut connection, count);
        }
        match connection.device {
            // nobody is there to be answered
            None => connection.to_client.clear(),
            Some(device) if connection.session.is_none() && connection.to_client.is_empty() => {
                self.devices[device].lost(&mut self.dice, self.desk.now());
                connection.device = None;
            }
            Some(_) => {}
        }
        if connection.device.is_some() || !connection.to_server.is_empty() {
            self.connections.insert(link, connection);
        } else if connection.is_closed {
            connection.end(&mut self.desk);
        }
    }

    fn some_of(&mut self, length: usize) -> usize {
        if self.dice.chance(40) { length } else { self.dice.below(length) + usize::from(length > 0) }
    }

    /// The first `count` bytes on their way to a device arrive there.
    fn receive(&mut self, device: usize, connection: &mut Connection, count: usize) {
        let bytes: Vec<_> = connection.to_client.drain(..count).collect();
        let now = self.desk.now();
        let told = self.devices[device].receive(&bytes, &mut self.dice, now, &mut connection.to_server);
        for told in told {
            match told {
                Told::Nothing => {}
                Told::Acknowledged(count) => {
                    let upload = &self.desk.model.uploads[connection.notes.upload.expect("an upload was begun")];
                    assert!(count <= upload.durable || upload.forget_at <= now, "acknowledged and not stored");
                }
                Told::HangsUp => {
                    connection.session = None;
                    connection.to_client.clear();
                }
            }
        }
        if connection.session.is_none() {
            connection.to_server.clear();
        }
    }

    /// Nobody is disturbed any more: every upload becomes complete, and every notice reaches its person. Then everything is
    /// forgotten.
    fn come_to_rest(&mut self) {
        self.tell(|_| "everything comes to rest".to_owned());
        for link in self.connections.keys().copied().collect::<Vec<_>>() {
            self.cut(link);
        }
        self.let_flow();
        assert!(self.connections.is_empty());
        for _ in 0..2 {
            for device in 0..self.devices.len() {
                self.pass_ms(1_000 * i64::from(self.desk.model.rules.block_s).max(30));
                self.visit(device);
            }
        }
        self.desk.check();
        self.check_devices();
        let longest =
            i64::from(self.desk.model.rules.retention_s) + 4 * i64::from(self.desk.model.rules.lifetime_s) + 2;
        self.pass_ms(1_000 * longest.max(self.desk.model.rules.log_s.into()));
        let now = self.desk.now();
        for _ in 0..2 {
            self.desk.check();
            let store = &self.desk.store;
            assert!(at_once(store.temp_ids(None, 1, now)).unwrap().is_empty(), "a TempID outlives its retention");
            assert!(at_once(store.uploads(None, 1, now)).unwrap().is_empty(), "an upload outlives its retention");
            assert!(self.devices.iter().all(|device| device.log.is_empty()), "a log outlives its retention");
            self.expire();
        }
    }

    /// A device comes with its password, does what is left to do, and leaves.
    fn visit(&mut self, device: usize) {
        self.devices[device].mistakes = 0;
        self.devices[device].token = None;
        self.connect(device);
        self.let_flow();
        assert!(self.devices[device].is_member(), "a device that makes no mistakes is let in");
        assert!(self.devices[device].pending.is_none(), "an upload does not become complete");
        for _ in 0..2 {
            self.ask_notices(device);
            self.let_flow();
        }
        assert!(self.desk.model.unread(device, self.desk.now()).is_empty(), "a notice does not reach its person");
        self.log_out(device);
        self.let_flow();
        assert!(self.devices[device].link.is_none() && self.connections.is_empty());
    }
}
