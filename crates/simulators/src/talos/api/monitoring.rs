//! Memory, processors, mounts, processes, containers: plausible numbers from what the machine is (talos.md 3.9).

use std::time::UNIX_EPOCH;

use talos::proto::machine as m;

use super::Api;
use crate::talos::publish;
use crate::talos::services::State;

impl Api {
    /// Seconds since the boot began.
    fn uptime(&self) -> f64 {
        self.boot.started.elapsed().map_or(0.0, |age| age.as_secs_f64())
    }

    /// Values in KiB.
    pub(super) fn memory_info(&self) -> m::Memory {
        // The kernel keeps some for itself.
        let total = self.boot.machine.memory_mib * 1024 * 97 / 100;
        let used = if self.boot.is_control_plane() { 1_400_000 } else { 700_000 }.min(total / 2);
        let info = m::MemInfo {
            memtotal: total,
            memfree: total - used,
            memavailable: total - used * 3 / 4,
            buffers: 8 * 1024,
            cached: used / 3,
            active: used / 2,
            inactive: used / 3,
            anonpages: used / 2,
            mapped: used / 8,
            slab: 90_000,
            commitlimit: total / 2,
            committedas: used,
            vmalloctotal: 34_359_738_367,
            hugepagesize: 2048,
            ..m::MemInfo::default()
        };
        m::Memory { metadata: None, meminfo: Some(info) }
    }

    pub(super) fn mount_stats(&self) -> m::Mounts {
        let ephemeral = self.boot.ephemeral_bytes();
        let device = self.boot.disk.device();
        let partition = |number: u32| device.as_ref().map(|device| format!("/dev/{device}{number}"));
        let mut stats = vec![m::MountStat {
            filesystem: "/dev/loop0".into(),
            size: 74 << 20,
            available: 0,
            mounted_on: "/".into(),
        }];
        for (filesystem, size, mounted_on) in
            [(partition(3), 100u64 << 20, "/system/state"), (partition(4), ephemeral, "/var")]
        {
            let Some(filesystem) = filesystem else { continue };
            stats.push(m::MountStat { filesystem, size, available: size * 9 / 10, mounted_on: mounted_on.into() });
        }
        m::Mounts { metadata: None, stats }
    }

    pub(super) fn system_statistics(&self) -> m::SystemStat {
        let uptime = self.uptime();
        let cpu =
            m::CpuStat { user: uptime * 0.05, system: uptime * 0.03, idle: uptime * 0.92, ..m::CpuStat::default() };
        let count = f64::from(self.boot.machine.cpus);
        let cpu_total = m::CpuStat {
            user: cpu.user * count,
            system: cpu.system * count,
            idle: cpu.idle * count,
            ..m::CpuStat::default()
        };
        m::SystemStat {
            boot_time: self.boot.started.duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs()),
            cpu_total: Some(cpu_total),
            cpu: vec![cpu; self.boot.machine.cpus as usize],
            process_created: 4000,
            process_running: 2,
            ..m::SystemStat::default()
        }
    }

    pub(super) fn cpus(&self) -> m::CpUsInfo {
        let cpu = |processor: u32| m::CpuInfo {
            processor,
            vendor_id: "GenuineIntel".into(),
            cpu_family: "6".into(),
            model: "106".into(),
            model_name: "QEMU Virtual CPU version 2.5+".into(),
            cpu_mhz: 2000.0,
            cache_size: "16384 KB".into(),
            siblings: self.boot.machine.cpus,
            cpu_cores: self.boot.machine.cpus,
            ..m::CpuInfo::default()
        };
        m::CpUsInfo { metadata: None, cpu_info: (0..self.boot.machine.cpus).map(cpu).collect() }
    }

    pub(super) fn network_devices(&self) -> m::NetworkDeviceStats {
        let device = |name: &str| m::NetDev {
            name: name.to_owned(),
            rx_bytes: 1 << 20,
            rx_packets: 1200,
            tx_bytes: 1 << 19,
            tx_packets: 900,
            ..m::NetDev::default()
        };
        let links = self.boot.network().links;
        let devices = std::iter::once("lo").chain(links.iter().map(|link| link.name.as_str())).map(device).collect();
        m::NetworkDeviceStats { metadata: None, total: Some(device("")), devices }
    }

    pub(super) fn disk_statistics(&self) -> m::DiskStats {
        let stat =
            |name: String| m::DiskStat { name, read_completed: 900, write_completed: 2500, ..m::DiskStat::default() };
        let devices = publish::disks(&self.boot).into_iter().map(|disk| stat(disk.name)).collect();
        m::DiskStats { metadata: None, total: Some(stat(String::new())), devices }
    }

    pub(super) fn process_list(&self) -> m::Process {
        let running = self.boot.services.list().into_iter().filter(|service| service.state == State::Running.name());
        let process = |(index, service): (usize, m::ServiceInfo)| m::ProcessInfo {
            pid: i32::try_from(index).unwrap_or(0) * 7 + 2500,
            ppid: 1,
            state: "S".into(),
            threads: 12,
            command: service.id.clone(),
            executable: format!("/usr/bin/{}", service.id),
            args: service.id,
            ..m::ProcessInfo::default()
        };
        let init = m::ProcessInfo {
            pid: 1,
            state: "S".into(),
            command: "init".into(),
            executable: "/sbin/init".into(),
            ..m::ProcessInfo::default()
        };
        m::Process {
            metadata: None,
            processes: std::iter::once(init).chain(running.enumerate().map(process)).collect(),
        }
    }
}
